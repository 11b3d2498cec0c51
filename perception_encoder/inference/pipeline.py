"""The parts of an encoder's stream: requests, their batches, and their results, in order, with bounded memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any, Generic, TypeVar, cast, get_args

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, detached
from perception_encoder.formats.listing import Item
from perception_encoder.inference.feature import Feature
from perception_encoder.preprocess.budget import map_ahead
from perception_encoder.preprocess.fetch import FetchLimits, is_url
from perception_encoder.preprocess.media import Kind, Media, resolve
from perception_encoder.preprocess.source import VIDEO_SUFFIXES
from perception_encoder.runtime.runtime import Runtime
from perception_encoder.vectors import unit_rows

logger = logging.getLogger(__name__)

K = TypeVar("K")
T = TypeVar("T")
R = TypeVar("R")
_SINGLE = (str, bytes, Path, Image.Image, np.ndarray, Mapping)


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
    words: tuple[str, ...] = ()
    """Lines of text in an image, if they were read."""


@dataclass(frozen=True)
class Failure(Generic[K]):
    """An input that could not be used."""

    key: K
    error: InputError


EncodingResult = Embedding[K] | Failure[K]


def item_request(item: Item) -> Request[Item]:
    """Return the request of an item of `list_items`."""
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


def batched(requests: Iterable[Request[K]], images: int, texts: int, frames: int) -> Iterator[list[Request[K]]]:
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


def compute(
    inputs: Iterable[Decoded],
    feature: Feature,
    images: int,
    texts: int,
    embed_pixels: Callable[[Sequence[Any]], np.ndarray],
    embed_texts: Callable[[Sequence[str]], np.ndarray],
    embed_video: Callable[[Sequence[Any], Sequence[float]], np.ndarray] | None,
) -> list[np.ndarray]:
    """Return the vectors of inputs, in order.

    Args:
        images, texts: Maximum number of frames and of texts computed together.
        embed_pixels: Returns vectors that are not normalized.
        embed_video: Of a model that reads videos whole.
    """
    waiting: list[tuple[int, Any]] = []
    vectors: dict[int, np.ndarray] = {}
    frames: dict[int, list[np.ndarray]] = {}  # by position, as the next two
    strings: dict[int, str] = {}
    videos: set[int] = set()

    def encode_waiting() -> None:
        found = embed_pixels([pixels for _, pixels in waiting])
        for (position, _), vector in zip(waiting, found, strict=True):
            frames.setdefault(position, []).append(vector)
        waiting.clear()

    for position, decoded in enumerate(inputs):
        if decoded.text is not None:
            strings[position] = decoded.text
        if decoded.times and embed_video:
            vectors[position] = embed_video(decoded.pixels, decoded.times)
            continue
        if decoded.times:
            videos.add(position)
        for pixels in decoded.pixels:
            waiting.append((position, pixels))
            if len(waiting) == images:
                encode_waiting()
    if waiting:
        encode_waiting()
    vectors |= {position: _join_frames(parts, feature, position in videos) for position, parts in frames.items()}
    for start in range(0, len(strings), texts):
        positions = list(strings)[start : start + texts]
        values = [strings[position] for position in positions]
        vectors |= zip(positions, embed_texts(values), strict=True)
    return [vectors[position] for position in sorted(vectors)]


def encode_batch(
    requests: list[Request[K]],
    limits: FetchLimits,
    decode: Callable[[Media], Decoded],
    compute: Callable[[Iterable[Decoded]], list[np.ndarray]],
) -> list[EncodingResult[K]]:
    """Return the results of requests, in order, with failures in their place."""
    outcomes: list[tuple[float, ...] | InputError] = []  # the times of frames, or the failure

    def decoded() -> Iterator[Decoded]:
        for request in requests:
            try:
                source = request.source
                item = decode(source if isinstance(source, Media) else source(limits=limits))
            except InputError as error:
                outcomes.append(detached(error))
                continue
            outcomes.append(item.times)
            yield item

    vectors = iter(compute(decoded()))
    return [
        Failure(request.key, outcome)
        if isinstance(outcome, InputError)
        else Embedding(request.key, next(vectors), outcome)
        for request, outcome in zip(requests, outcomes, strict=True)
    ]


def ordered_rows(results: Iterable[EncodingResult[int]], skipped: dict[int, InputError] | None) -> list[np.ndarray]:
    """Return vectors in the order of their keys; raise the first failure, or add all to `skipped`.

    Raises ConfigError for tokens of both images and videos.
    """
    rows: dict[int, np.ndarray] = {}
    for result in results:
        if isinstance(result, Embedding):
            rows[result.key] = result.vector
        elif skipped is None:
            raise result.error
        else:
            logger.warning("skipped %s", result.error)
            skipped[result.key] = result.error
    if len({row.shape for row in rows.values()}) > 1:
        raise ConfigError("pool 'tokens' takes images or videos, not both at once")
    return [rows[index] for index in sorted(rows)]


def _join_frames(frames: list[np.ndarray], feature: Feature, video: bool) -> np.ndarray:
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
