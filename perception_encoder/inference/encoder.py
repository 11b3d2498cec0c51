"""Load a model, and encode images, videos and texts with it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, cast, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.inference.embedder import Embedder, Feature
from perception_encoder.inference.fetch import is_url
from perception_encoder.inference.library_interfaces import (
    SentenceInterface,
    as_list,
    batch_inputs,
    check_unsupported,
    model_meta,
    of_modality,
    truncate,
)
from perception_encoder.inference.media import Kind, Value
from perception_encoder.inference.pipeline import Embedding, Request, encode_requests, guess_kind
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.weights import TowerChoice, find_weights, load_model
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.registry import shown_name
from perception_encoder.progress import progress_bar

logger = logging.getLogger(__name__)


class EncodeOptions(TypedDict, total=False):
    """The arguments of `Encoder.encode` on which the type of its result does not depend."""

    layer: int | None
    pool: str | None
    frames: int
    batch_size: int | None
    skipped: dict[int, InputError] | None
    progress: Callable[[int], object] | None
    show_progress_bar: bool | None
    normalize_embeddings: bool | None
    truncate_dim: int | None
    precision: str | None
    prompt: str | None
    prompt_name: str | None
    device: str | torch.device | None
    task_metadata: object
    hf_split: str | None
    hf_subset: str | None
    prompt_type: object


class Encoder(Embedder, SentenceInterface):
    """A model that encodes media and texts; threads may share one.

    Attributes: `model` (the torch module, in `dtype`), `name` (canonical; of the demo "builtin"), `device`, `dtype`,
    `transform`, `tokenizer` (None without a text tower), `fetch_limits` (what a URL may cost, and whether private
    addresses are allowed).
    """

    @overload
    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        convert_to_numpy: Literal[True] = True,
        convert_to_tensor: Literal[False] = False,
        **options: Unpack[EncodeOptions],
    ) -> Float[np.ndarray, "*n D"]: ...

    @overload
    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **options: Unpack[EncodeOptions],
    ) -> np.ndarray | Tensor | list[Tensor]: ...

    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
        task_metadata: object = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: object = None,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """Encode images, videos and texts in any mixture: float32 (n, D), rows in input order.

        Paths, strings of existing paths, URLs, bytes, open binary files, PIL images and uint8 arrays (H, W), (H, W, 3)
        and (F, H, W, 3) are media. Any other string is a text, except that one with a media suffix and no such file is
        an error; `encode_texts` takes every string as a text, and {"text": …}, {"image": …} or {"video": …} says what
        it is. `inputs` may be a list, an array of strings or a pandas Series; a single input outside a list gives (D,).

        `normalize`, `layer`, `pool` and `frames` are those of `feature`; pool "tokens" gives (n, N, D), of videos
        (n, F, N, D). `batch_size`: images or texts computed at once, by default what fits the cache.
        `skipped`: a dict that makes bad inputs be skipped: they have no row, are logged, and stand in it as
        {index: error}; without it the first bad input raises its InputError. `progress` is called with the number of
        inputs done since its last call; `show_progress_bar` shows a bar on a terminal.

        sentence-transformers' arguments: `normalize_embeddings` overrides `normalize`. `convert_to_tensor` gives a
        tensor on the encoder's device; neither it nor `convert_to_numpy` gives a list of tensors. `truncate_dim` cuts
        vectors to that many numbers before they are normalised. `precision` must be "float32", `prompt` and
        `prompt_name` None, and `device` the encoder's own; ConfigError if not.

        mteb's arguments: with `task_metadata`, `inputs` is mteb's loader of batches. The model has no prompts, so the
        task, `hf_split`, `hf_subset` and `prompt_type` change nothing.
        """
        check_unsupported(self.name, precision, prompt or prompt_name, truncate_dim)
        if device is not None and choose_device(device) != self.device:
            raise ConfigError(f"this encoder computes on {self.device}; load one with device={str(device)!r} instead")
        normalize = normalize if normalize_embeddings is None else normalize_embeddings
        feature = self.feature(layer, pool, normalize, frames)
        if task_metadata is None:
            values, single = as_list(inputs)
            parts: Iterable[object] = [values[0] if single else values]
            count = len(values)
        elif skipped is None:
            parts, count, single = batch_inputs(cast(Any, inputs)), len(cast(Any, inputs).dataset), False
        else:
            raise ConfigError("skipped is given, but mteb needs a row for each input; leave it out")
        bar = progress_bar("encoding", count) if show_progress_bar else nullcontext(lambda items: None)
        with bar as advance:

            def report(items: int) -> None:
                advance(items)
                if progress is not None:
                    progress(items)

            arrays = [self._encode(part, None, feature, batch_size, skipped, report) for part in parts]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if truncate_dim is not None:
            rows = truncate(rows, truncate_dim, normalize)
        if convert_to_numpy and not convert_to_tensor:
            return rows
        tensor = torch.from_numpy(rows).to(self.device)
        return tensor if single or convert_to_tensor else list(tensor)

    encode_query = encode_document = encode
    """The models have no prompts, so queries and documents are encoded alike."""

    @property
    def mteb_model_meta(self) -> Any:
        """mteb's description of the model, by which it names and caches results; only mteb reads it."""
        return model_meta(self)

    def get_embedding_dimension(self) -> int:
        """`dimension`, under sentence-transformers' name."""
        return self.dimension

    get_sentence_embedding_dimension = get_embedding_dimension

    def encode_images(
        self,
        images: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """`encode` for what must be images; an array (n, H, W, 3) is n of them, and of animations the first frame."""
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        return self._encode(images, "image", self.feature(layer, pool, normalize), batch_size, skipped, progress)

    def encode_videos(
        self,
        videos: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """`encode` for what must be videos; animated images are videos here."""
        feature = self.feature(layer, pool, normalize, frames)
        return self._encode(videos, "video", feature, batch_size, skipped, progress)

    def encode_texts(
        self,
        texts: str | Iterable[str],
        normalize: bool = True,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """`encode` for what must be texts, whatever they look like; a text over the context is cut with a warning."""
        return self._encode(texts, "text", self.feature(normalize=normalize), batch_size, None, progress)

    def _encode(
        self,
        inputs: object,
        kind: Kind | None,
        feature: Feature,
        batch_size: int | None,
        skipped: dict[int, InputError] | None,
        progress: Callable[[int], object] | None,
    ) -> np.ndarray:
        values, single = as_list(inputs)
        pairs = [of_modality(value) for value in values]
        requests = [self._request(index, value, kind or own) for index, (value, own) in enumerate(pairs)]
        # texts of like lengths side by side need little padding
        requests.sort(key=lambda request: len(str(values[request.key])) if request.likely == "text" else 0)
        rows: dict[int, np.ndarray] = {}
        for batch in encode_requests(self, requests, feature, batch_size):
            for result in batch:
                if isinstance(result, Embedding):
                    rows[result.key] = result.vector
                elif skipped is None or single:
                    raise result.error
                else:
                    logger.warning("skipped %s", result.error)
                    skipped[result.key] = result.error
            if progress is not None:
                progress(len(batch))
        return rows[0] if single else self._stack([rows[index] for index in sorted(rows)], feature)

    def _request(self, index: int, value: object, kind: Kind | None) -> Request[int]:
        has_name = isinstance(value, (str, Path)) or bool(getattr(value, "filename", None))
        source = Value(value, None if has_name else f"input {index}", kind)
        if isinstance(value, str) and kind != "text" and not is_url(value):
            with suppress(InputError):  # raised again in its turn
                media = source.media()
                return Request(index, media, media.kind)
        return Request(index, source, kind or guess_kind(str(value) if isinstance(value, (str, Path)) else ""))

    def _stack(self, rows: list[np.ndarray], feature: Feature) -> np.ndarray:
        if not rows:
            return np.empty((0, self.width(feature)), np.float32)
        if len({row.shape for row in rows}) > 1:
            raise ConfigError("pool 'tokens' takes images or videos, not both at once")
        return np.stack(rows)


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    towers: TowerChoice = "all",
) -> Encoder:
    """Load a model with its weights as an `Encoder`.

    `name`: "builtin", a checkpoint's path, or any model name or alias, fetched from the hub once. `device`, `dtype`:
    see `Embedder`. `towers="text"` leaves the vision tower of a two-tower model unread: it then encodes texts alone.
    Raises UnknownModelError, CheckpointError, WeightsUnavailableError.
    """
    device = choose_device(device)
    dtype = dtype or fast_dtype(device)
    path, _ = find_weights(name)
    cached_hash = CachedHash(path) if path.is_file() else None  # as the file is before it is read
    model = load_model(name, towers)
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device, dtype)
    encoder = Encoder(model, device, dtype)
    encoder.name = shown_name(str(name)) or encoder.name
    encoder.cache_hash(name, cached_hash)
    return encoder
