"""Stream inputs to embeddings: resolve → decode → resize → embed, in order, with bounded memory.

Several threads take whole batches, from the file to the embedding, so that decoding and computing overlap. With torch
on a CPU each computes on a core of its own, in whose cache a batch stays; else one at a time computes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast, get_args

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, detached
from perception_encoder.inference.fetch import FetchLimits, is_url
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import Kind, Media, open_media, resolve
from perception_encoder.preprocess.budget import DECODING, map_ahead
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.source import VIDEO_SUFFIXES
from perception_encoder.runtime.runtime import Runtime
from perception_encoder.vectors import unit_rows

if TYPE_CHECKING:
    from perception_encoder.models.external import Role

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")
_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Mapping)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """The features to take from a model; `Encoder.feature` fills in the defaults and checks them."""

    layer: int
    """0-based block of the vision tower whose tokens are taken; the last one's go through the final norm. -1 for a
    model of another library whose layers are not used."""
    pool: str
    """"attn" (the model's own output after the last layer), "cls" (class token), "mean" or "tokens" (patch tokens, row
    by row)."""
    normalize: bool = True
    """Unit length. A video's embedding is the mean of its frames' unnormalized embeddings, made unit length."""
    frames: int = 8
    """Uniform frames of a video."""
    role: Role = "document"
    """The inputs' role, for models with prompts; None for their library's default."""

    @property
    def executed(self) -> int | None:
        """The layer as a `Runtime` counts it: None for the model's own output."""
        return None if self.pool == "attn" else self.layer


def resolve_layers(layers: Sequence[int] | None, depth: int, name: str) -> list[int]:
    """Return layers 0-based, ascending and unique; negative ones count from the end, None means all.

    ConfigError if one does not exist, and for no layers.
    """
    for layer in layers or ():
        if not -depth <= layer < depth:
            raise ConfigError(f"layer {layer} does not exist; {name} has layers 0 to {depth - 1}")
    if layers is not None and not layers:
        raise ConfigError(f"no layer was given; {name} has layers 0 to {depth - 1}")
    return list(range(depth)) if layers is None else sorted({layer % depth for layer in layers})


REDUCED = 2
"""Minimum short side of an image that is decoded reduced, in the model's image sizes."""


class _Encoder(Protocol):
    """The part of an `Encoder` that the stream uses."""

    runtime: Runtime
    fetch_limits: FetchLimits
    transform: Any

    @property
    def batch_size(self) -> int: ...

    @property
    def text_batch_size(self) -> int: ...

    @property
    def decoding(self) -> str | None: ...

    @property
    def reads_videos(self) -> bool: ...

    def width(self, feature: Feature) -> int: ...

    def embed_pixels(self, pixels: Sequence[Any], feature: Feature) -> np.ndarray: ...

    def embed_video(self, pixels: Sequence[Any], times: Sequence[float], feature: Feature) -> np.ndarray: ...

    def embed_texts(self, texts: Sequence[str], feature: Feature) -> np.ndarray: ...


@dataclass(frozen=True)
class Request(Generic[K]):
    """One input to encode, resolved when its turn comes."""

    key: K
    """The caller's identifier, such as its row."""
    source: Media | Callable[..., Media]
    """Media, or a function of `limits` that returns them or raises InputError, as `Item.media`."""
    likely: Kind = "image"
    """The likely kind: a batch holds many texts and few videos."""


@dataclass(frozen=True)
class Embedding(Generic[K]):
    """The vector of one input."""

    key: K
    vector: np.ndarray
    """float32 (D,); with pool "tokens" (N, D), or (F, N, D) for a video."""
    times: tuple[float, ...] = ()
    """Times of a video's frames in seconds (NaN if unknown)."""


@dataclass(frozen=True)
class Failure(Generic[K]):
    """An input that could not be used."""

    key: K
    error: InputError


EncodingResult = Embedding[K] | Failure[K]


def encode_inputs(
    encoder: _Encoder,
    inputs: object,
    kind: Kind | None,
    feature: Feature,
    batch_size: int | None,
    skipped: dict[int, InputError] | None,
    advance: Callable[[int], object] = lambda items: None,
) -> np.ndarray:
    """Return the vectors of inputs as one array, in order: see `Encoder.encode`; `advance` is told of those done."""
    requests, single = as_requests(inputs, kind)
    rows: dict[int, np.ndarray] = {}
    for batch in encode_requests(encoder, requests, feature, batch_size):
        for result in batch:
            if isinstance(result, Embedding):
                rows[result.key] = result.vector
            elif skipped is None or single:
                raise result.error
            else:
                logger.warning("skipped %s", result.error)
                skipped[result.key] = result.error
        advance(len(batch))
    if single:
        return rows[0]
    if len({row.shape for row in rows.values()}) > 1:
        raise ConfigError("pool 'tokens' takes images or videos, not both at once")
    found = [rows[index] for index in sorted(rows)]
    return np.stack(found) if found else np.empty((0, encoder.width(feature)), np.float32)


def encode_items(encoder: _Encoder, items: Iterable[Item], feature: Feature) -> Iterator[list[EncodingResult[Item]]]:
    """Encode the items of `list_items`: see `encode_requests`."""
    requests = map(_item_request, items)
    return encode_requests(encoder, [*requests] if isinstance(items, Sequence) else requests, feature)


def group_items(items: Iterable[Item], images: int, texts: int, frames: int) -> Iterator[list[Item]]:
    """Yield consecutive items that cost as much as `images` images or `texts` texts; a video costs its frames."""
    for batch in _group(map(_item_request, items), images, texts, frames):
        yield [request.key for request in batch]


def _item_request(item: Item) -> Request[Item]:
    return Request(item, item.media, "text" if is_text(item) else guess_kind(item.path))


def is_text(item: Item) -> bool:
    """Return whether an item is certainly a text, before it is opened."""
    return item.source is None and item.problem is None


def guess_kind(name: str) -> Kind:
    """Guess a file's kind from its name."""
    return "video" if PurePath(name).suffix.lower() in VIDEO_SUFFIXES else "image"


def as_requests(inputs: object, kind: Kind | None) -> tuple[list[Request[int]], bool]:
    """Return the requests of inputs, whose keys are their rows, and whether they were a single input outside a list."""
    values, single = as_list(inputs)
    requests = [_as_request(row, value, kind) for row, value in enumerate(values)]
    # texts of like lengths side by side need little padding
    requests.sort(key=lambda request: len(str(values[request.key])) if request.likely == "text" else 0)
    return requests, single


def as_list(inputs: object) -> tuple[list[object], bool]:
    """Return inputs as a list, and whether they were a single input outside a list."""
    if isinstance(inputs, np.ndarray) and inputs.dtype.kind in "UTO":  # strings or objects, not pixels
        inputs = inputs.tolist()
    if isinstance(inputs, _SINGLE) or not isinstance(inputs, Iterable):
        return [inputs], True
    return list(cast(Iterable[object], inputs)), False


def _as_request(index: int, value: object, kind: Kind | None) -> Request[int]:
    """Return the request of an input; a string without a `kind` may be a path or a text."""
    value, stated = _of_modality(value)
    kind = kind or stated
    has_name = isinstance(value, (str, Path)) or bool(getattr(value, "filename", None))
    source = partial(resolve, value, None if has_name else f"input {index}", kind=kind)
    if isinstance(value, str) and kind != "text" and not is_url(value):
        with suppress(InputError):  # raised again in its turn
            media = source()
            return Request(index, media, media.kind)
    return Request(index, source, kind or guess_kind(str(value) if isinstance(value, (str, Path)) else ""))


def _of_modality(value: object) -> tuple[object, Kind | None]:
    """Return an input and its kind if it is a sentence-transformers dict: {"image": …}, {"video": …}, {"text": …}.

    Raises ConfigError for a dict of several modalities, which have no joint embedding, and for other keys.
    """
    if not isinstance(value, Mapping):
        return value, None
    if len(value) != 1 or not value.keys() <= {*get_args(Kind)}:
        raise ConfigError(f"an input has the keys {list(value)}; a dict must have one of {', '.join(get_args(Kind))}")
    ((kind, content),) = value.items()
    return content, kind


def encode_requests(
    encoder: _Encoder,
    requests: Iterable[Request[K]],
    feature: Feature,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[list[EncodingResult[K]]]:
    """Encode requests: yield the results of each batch as a list, in order, with failures in their place.

    `batch_size`: images at a time, by default what fits the cache (`encoder.batch_size`), or fewer if `requests`
    is a list too short to keep all workers busy that compute on a core each. `workers`: threads that take a batch each,
    by default the runtime's; 1 is the caller's own, with all its cores. The batches of a stream do not depend on
    `workers` nor on what came before them.
    """
    images, texts = batch_size or encoder.batch_size, batch_size or encoder.text_batch_size
    if workers is None:
        workers = encoder.runtime.workers
    if isinstance(requests, Sequence) and batch_size is None and encoder.runtime.per_core:
        images = max(1, min(images, math.ceil(len(requests) / workers)))
    batches: Iterable[list[Request[K]]] = _group(requests, images, texts, feature.frames)
    if isinstance(requests, Sequence):
        batches = list(batches)
        workers = max(1, min(workers, len(batches)))
    encode = partial(_encode_batch, encoder, feature=feature, images=images, texts=texts)
    return map_in_order(encode, batches, workers, encoder.runtime)


def _group(requests: Iterable[Request[K]], images: int, texts: int, frames: int) -> Iterator[list[Request[K]]]:
    """Yield batches that cost as much as `images` images or `texts` texts; a video costs its frames."""
    costs: dict[Kind, int] = {"text": images, "image": texts, "video": texts * frames}
    batch: list[Request[K]] = []
    cost = 0
    for request in requests:
        batch.append(request)
        cost += costs[request.likely]
        if cost >= images * texts:
            yield batch
            batch, cost = [], 0
    if batch:
        yield batch


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """An input in the form that the model takes: a text, or pixels."""

    text: str | None = None
    pixels: tuple[Any, ...] = ()
    """One for each frame: uint8 (3, H, W), or what another library's transform gives."""
    times: tuple[float, ...] = ()
    """Times of a video's frames in seconds."""

    @property
    def bytes(self) -> int:
        """Memory of the pixels."""
        return sum(
            array.nbytes for item in self.pixels for array in (item.values() if isinstance(item, dict) else [item])
        )


def reduced_side(encoder: _Encoder, feature: Feature) -> int | None:
    """Return the short side down to which images are reduced while they are decoded; None to decode them whole."""
    size = encoder.transform.size
    if size is None or feature.pool == "tokens" or encoder.decoding != "reduced":
        return None
    return REDUCED * (size if isinstance(size, int) else max(size))


def decode(encoder: _Encoder, media: Media, feature: Feature, served: bool = False) -> Decoded:
    """Open an input and resize it; large images wait for space in `DECODING`. `served`, raises: as `open_media`."""
    with DECODING.admission() as admit:
        opened = open_media(media, feature.frames, admit, reduce_to=reduced_side(encoder, feature), served=served)
        if isinstance(opened, str):
            return Decoded(text=opened)
        images, times = (opened.images, opened.times) if isinstance(opened, VideoFrames) else ([opened], [])
        return Decoded(pixels=tuple(map(encoder.transform.pixels, images)), times=tuple(times))


def encode_decoded(
    encoder: _Encoder, inputs: Iterable[Decoded], feature: Feature, images: int | None = None, texts: int | None = None
) -> list[np.ndarray]:
    """Return the vectors of inputs, in order, computed in the caller's thread.

    `images`, `texts`: maximum numbers of frames and texts to compute together, which bound the memory.
    """
    images, texts = images or encoder.batch_size, texts or encoder.text_batch_size
    raw = replace(feature, normalize=False)  # frames are averaged first
    waiting: list[tuple[int, Any]] = []
    vectors: dict[int, np.ndarray] = {}
    frames: dict[int, list[np.ndarray]] = {}  # by position, as the next two
    strings: dict[int, str] = {}
    videos: set[int] = set()

    def encode_waiting() -> None:
        found = encoder.embed_pixels([pixels for _, pixels in waiting], raw)
        for (position, _), vector in zip(waiting, found, strict=True):
            frames.setdefault(position, []).append(vector)
        waiting.clear()

    for position, decoded in enumerate(inputs):
        if decoded.text is not None:
            strings[position] = decoded.text
        if decoded.times and encoder.reads_videos:
            vectors[position] = encoder.embed_video(decoded.pixels, decoded.times, feature)
            continue
        if decoded.times:
            videos.add(position)
        for pixels in decoded.pixels:
            waiting.append((position, pixels))
            if len(waiting) == images:
                encode_waiting()
    if waiting:
        encode_waiting()
    vectors |= {position: _join(parts, feature, position in videos) for position, parts in frames.items()}
    for start in range(0, len(strings), texts):
        positions = list(strings)[start : start + texts]
        values = [strings[position] for position in positions]
        vectors |= zip(positions, encoder.embed_texts(values, feature), strict=True)
    return [vectors[position] for position in sorted(vectors)]


def _encode_batch(
    encoder: _Encoder, requests: list[Request[K]], feature: Feature, images: int, texts: int
) -> list[EncodingResult[K]]:
    outcomes: list[tuple[float, ...] | InputError] = []  # the times of frames, or the failure

    def decoded() -> Iterator[Decoded]:
        for request in requests:
            try:
                source = request.source
                media = source if isinstance(source, Media) else source(limits=encoder.fetch_limits)
                item = decode(encoder, media, feature)
            except InputError as error:
                outcomes.append(detached(error))
                continue
            outcomes.append(item.times)
            yield item

    vectors = iter(encode_decoded(encoder, decoded(), feature, images, texts))
    return [
        Failure(request.key, outcome)
        if isinstance(outcome, InputError)
        else Embedding(request.key, next(vectors), outcome)
        for request, outcome in zip(requests, outcomes, strict=True)
    ]


def _join(frames: list[np.ndarray], feature: Feature, video: bool) -> np.ndarray:
    """Return the vector of an image, or the mean over a video's frames (D,); for tokens, all of them ((F,) N, D).

    `frames` are not normalized; the result is, as `feature` says.
    """
    vectors = np.stack(frames) if video else frames[0]
    if video and feature.pool != "tokens":
        vectors = vectors.mean(axis=0)
    return unit_rows(vectors) if feature.normalize else vectors


def map_in_order(work: Callable[[T], R], batches: Iterable[T], workers: int, runtime: Runtime) -> Iterator[R]:
    """Yield `work(batch)` for each batch, in order, from `workers` threads of the runtime.

    At most two batches a worker are under way. A single worker is the caller's own thread, with all its cores.
    """
    if workers == 1:
        yield from map(work, batches)
        return
    with runtime.threads(workers) as pool:
        yield from map_ahead(work, batches, pool, 2 * workers)
