"""The encoder: images, videos and texts to embeddings, at the model's output or any earlier layer.

Computation runs in bfloat16 if the machine has fast bfloat16 (timed, not assumed), else in float32; results are
float32.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Unpack, cast, overload

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from perception_encoder.errors import ConfigError, InputError, ModelError
from perception_encoder.inference.fetch import FetchLimits, is_url
from perception_encoder.inference.library_interfaces import (
    EncodeOptions,
    SentenceInterface,
    as_list,
    batch_inputs,
    check_unsupported,
    of_modality,
    truncate,
)
from perception_encoder.inference.media import Kind, Value
from perception_encoder.inference.pipeline import Embedding, Feature, Request, encode_requests, guess_kind
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.weights import Model, load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import image_transform, to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, tokenizer, trim
from perception_encoder.progress import progress_bar

logger = logging.getLogger(__name__)

POOLS = ("attn", "cls", "mean", "tokens")
TRANSFORMS = ("squash", "crop")
CACHED_ACTIVATIONS = 640_000
"""Tokens × width of a batch that fits a CPU core's cache (measured: 2 MiB of L2, bfloat16)."""


class Encoder(SentenceInterface):
    """A model with its transform and tokenizer, from this package or (as a subclass) from another library.

    Threads may share one. Attributes: `model` (the torch module, in `dtype`), `name`, `device`, `dtype`, `transform`,
    `tokenizer` (None without a text tower of this package), `fetch_limits` (what a URL may cost, and whether private
    addresses are allowed).
    """

    layer: int | None = None
    pool: str | None = None
    """The defaults of `feature`; `variant` sets them."""

    def __init__(
        self, model: Model, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """`device`: a CUDA GPU by default if there is one. `dtype`: bfloat16 by default if it is fast.

        The model is copied if it has another device or type.
        """
        self.device = choose_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        self.name = model.name
        fits = all(p.is_meta or (p.dtype, p.device) == (self.dtype, self.device) for p in model.parameters())
        self.model = model if fits else copy.deepcopy(model).to(self.device, self.dtype)
        self.transform: Any = image_transform(model)
        self.tokenizer: Tokenizer | None = tokenizer(model) if isinstance(model, CLIP) else None
        self.fetch_limits = FetchLimits()
        self._original = model
        self._source: str | Path | None = None
        self._cached_hash: CachedHash | None = None

    @property
    def source(self) -> str:
        """Name or path that the model was loaded from."""
        return str(getattr(self, "_source", None) or self.name)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        details = f"{self.name!r}, dimension={self.dimension}, device={str(self.device)!r}, dtype={dtype!r}"
        return f"{type(self).__name__}({details})"

    @property
    def visual(self) -> VisionTransformer:
        """The vision tower; ConfigError for a model of another library."""
        return self.model.visual if isinstance(self.model, CLIP) else self.model

    @property
    def dimension(self) -> int:
        """Length of an embedding, D, with the default layer and pooling."""
        return self.width(self.feature())

    @property
    def reads_texts(self) -> bool:
        """Whether the model has a text tower."""
        return self.tokenizer is not None

    @property
    def depth(self) -> int:
        """Number of layers with features; 0 if only the model's output is available."""
        return self.visual.config.depth

    @property
    def has_class_token(self) -> bool:
        """Whether pool "cls" exists."""
        return self.visual.config.class_token

    @property
    def has_output(self) -> bool:
        """Whether pool "attn", the model's own output, exists."""
        return self.visual.config.pools

    @cached_property
    def weight_hash(self) -> str:
        """Hash of the weights, whatever their `dtype`; takes a second per gigabyte.

        The hash of a file is cached; the first time, the file is read once more if `dtype` is not float32.
        """
        return self._hash_weights() if self._cached_hash is None else self._cached_hash.get(self._hash_weights)

    def _hash_weights(self) -> str:
        exact = all(p.dtype == torch.float32 and not p.is_meta for p in self._original.parameters())
        return weight_hash(self._original if exact or self._source is None else load_model(self._source))

    @property
    def about(self) -> dict[str, str]:
        """What embeddings depend on besides inputs and transform: weight hash, dtype, device, layer."""
        dtype = str(self.dtype).removeprefix("torch.")
        about = {"weights": self.weight_hash, "dtype": dtype, "device": self.device.type}
        return about if self.pool is None else {**about, "layer": str(self.layer), "pool": self.pool}

    def cache_hash(self, source: str | Path, cached_hash: CachedHash | None) -> None:
        """Store the model's source and the cached hash of its file."""
        self._source, self._cached_hash = source, cached_hash

    @property
    def batch_size(self) -> int:
        """Number of images to compute together: on a CPU, as many as fit a core's cache."""
        config = self.visual.config
        return max(2, CACHED_ACTIVATIONS // (config.grid**2 * config.width)) if self.device.type == "cpu" else 64

    @property
    def text_batch_size(self) -> int:
        """Number of texts to compute together."""
        return 64 if self.device.type == "cpu" else 512

    def feature(
        self, layer: int | None = None, pool: str | None = None, normalize: bool = True, frames: int = 8
    ) -> Feature:
        """Return the features to take: by default the model's own output.

        `layer`: 0-based or, from the end, negative; the last by default. `pool`: see `Feature`; by default "attn" after
        the last layer of a model that has it, else "mean". Raises ConfigError for what the model does not have.
        """
        if layer is None and pool is None:
            layer, pool = self.layer, self.pool
        if frames < 1:
            raise ConfigError(f"frames is {frames}; a video needs at least 1")
        depth = self.depth
        if not depth:
            if layer is not None or pool not in (None, "attn"):
                raise ConfigError(f"{self.name} has embeddings only; omit layer and pool")
            return Feature(layer=-1, pool="attn", normalize=normalize, frames=frames)
        index = resolve_layers([-1 if layer is None else layer], depth, self.name)[0]
        pooled_here = self.has_output and index == depth - 1
        pool = pool or ("attn" if pooled_here else "mean")
        if pool not in POOLS:
            raise ConfigError(f"pool is {pool!r}; it must be one of {', '.join(POOLS)}")
        if pool == "attn" and not pooled_here:
            where = f"has it after layer {depth - 1} only" if self.has_output else "has none"
            raise ConfigError(f"no pool 'attn' after layer {index}: {self.name} {where}; use mean, cls or tokens")
        if pool == "cls" and not self.has_class_token:
            raise ConfigError(f"{self.name} has no class token; use pool mean or tokens")
        return Feature(layer=index, pool=pool, normalize=normalize, frames=frames)

    def variant(self, *, transform: str | None = None, layer: int | None = None, pool: str | None = None) -> Encoder:
        """Return this encoder with another transform, or with another layer or pooling as its default.

        `transform`: "squash" or "crop". `layer`, `pool`: see `feature`. The weights are shared. Raises ConfigError for
        what the model does not have.
        """
        changed = copy.copy(self)
        if transform is not None:
            check_transform(transform)
            changed.transform = replace(self.transform, mode=transform)
        if layer is not None or pool is not None:
            feature = self.feature(layer, pool)
            changed.layer, changed.pool = feature.layer, feature.pool
        return changed

    def width(self, feature: Feature) -> int:
        """Length of an embedding or token of `feature`, D."""
        config = self.visual.config
        return (config.output_dim or config.width) if feature.pool == "attn" else config.width

    def describe(self, feature: Feature) -> dict[str, Any]:
        """Return what values of `feature` depend on besides the inputs, with the dimension and the patch grid."""
        description = {
            "model": self.name,
            "weight_hash": self.weight_hash,
            "layer": feature.layer,
            "pool": feature.pool,
            "normalised": feature.normalize,
            "frames": feature.frames,
            "dtype": str(self.dtype).removeprefix("torch."),
            "transform": self.transform.mode,
            "dimension": self.width(feature),
        }
        return description | self._describe_grid()

    def _describe_grid(self) -> dict[str, Any]:
        height, width = (self.transform.size,) * 2 if isinstance(self.transform.size, int) else self.transform.size
        patch = self.visual.config.patch_size
        return {"size": [height, width], "grid": [height // patch, width // patch]}

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], feature: Feature) -> Float[Tensor, "B D"]:
        """Return embeddings of texts: float32 (B, D) on the CPU; ConfigError if texts have no such `feature`."""
        if not self.reads_texts:
            raise ConfigError(f"{self.name} has no text tower; use a Core model for texts")
        if feature.pool != "attn":
            raise ConfigError("texts share a space with the model's own output only; omit layer and pool")
        return self._finish(self._texts(texts), feature)

    def _texts(self, texts: Sequence[str]) -> Tensor:
        assert isinstance(self.model, CLIP) and self.tokenizer is not None
        return self.model.encode_text(trim(self.tokenizer(texts)).to(self.device))  # (B, T) → (B, D)

    @torch.inference_mode()
    def embed_pixels(self, pixels: UInt8[np.ndarray, "B 3 H W"], feature: Feature) -> Float[Tensor, "B *N D"]:
        """Return features of images after `transform.pixels`: float32 (B, D), or tokens (B, N, D), on the CPU.

        A video's frames are averaged before they are made unit length, so ask for them without `normalize`.
        """
        tensor = torch.from_numpy(pixels)
        if feature.pool == "attn":
            return self._finish(self._output(tensor), feature)
        prefix, patches = self._tokens(tensor, feature.layer)
        if feature.pool == "mean":
            return self._finish(patches.float().mean(dim=1), feature)
        return self._finish(patches if feature.pool == "tokens" else prefix[:, 0], feature)

    def _scaled(self, pixels: Tensor) -> Tensor:
        if self.visual.conv1.weight.is_meta:
            raise ConfigError(f"{self.name} was loaded with towers='text'; load it whole for images and videos")
        return to_float(pixels.to(self.device)).to(self.dtype)

    def _output(self, pixels: Tensor) -> Tensor:
        """Return the model's own embeddings (B, D)."""
        return self.visual(self._scaled(pixels))

    def _tokens(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return prefix (B, P, D) and patch tokens (B, N, D) of a layer."""
        patches, prefix = self.visual.forward_intermediates(
            self._scaled(pixels),
            [layer],
            return_prefix_tokens=True,
            norm=layer == self.depth - 1,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]
        return prefix, patches

    def _finish(self, features: Tensor, feature: Feature) -> Tensor:
        features = features.float().cpu()
        if not features.isfinite().all():
            raise ModelError(f"{self.name} gives NaN or infinity in {self.dtype}: its weights are bad, or need float32")
        return F.normalize(features, dim=-1) if feature.normalize else features

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

        Paths, strings of existing paths, URLs, bytes, PIL images and uint8 arrays (H, W), (H, W, 3) and (F, H, W, 3)
        are media. Any other string is a text, except that one with a media suffix and no such file is an error;
        `encode_texts` takes every string as a text, and {"text": …}, {"image": …} or {"video": …} says what it is.
        `inputs` may be a list, an array of strings or a pandas Series; a single input outside a list gives (D,).

        `normalize`, `layer`, `pool` and `frames` are those of `feature`; pool "tokens" gives (n, N, D), of videos
        (n, F, N, D). `batch_size`: images or texts computed at once, by default what fits the cache.
        `skipped`: a dict that makes bad inputs be skipped: they have no row, are logged, and stand in it as
        {index: error}; without it the first bad input raises its InputError. `show_progress_bar` shows a bar on a
        terminal.

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
            raise ConfigError("skipped is given, but mteb needs a row for each input; omit it")
        bar = progress_bar("encoding", count) if show_progress_bar else nullcontext(lambda items: None)
        with bar as advance:
            arrays = [self._encode(part, None, feature, batch_size, skipped, advance) for part in parts]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if truncate_dim is not None:
            rows = truncate(rows, truncate_dim, normalize)
        if convert_to_numpy and not convert_to_tensor:
            return rows
        tensor = torch.from_numpy(rows).to(self.device)
        return tensor if single or convert_to_tensor else list(tensor)

    encode_query = encode_document = encode
    """The models have no prompts: queries and documents are encoded the same way."""

    def encode_images(
        self,
        images: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """Encode images as `encode` does; an array (n, H, W, 3) is n images, an animation its first frame."""
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        return self._encode(images, "image", self.feature(layer, pool, normalize), batch_size, skipped)

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
    ) -> Float[np.ndarray, "*n D"]:
        """Encode videos as `encode` does; animated images count as videos here."""
        feature = self.feature(layer, pool, normalize, frames)
        return self._encode(videos, "video", feature, batch_size, skipped)

    def encode_texts(
        self,
        texts: str | Iterable[str],
        normalize: bool = True,
        *,
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """Encode strings as texts, whatever they look like; texts over the context are cut with a warning."""
        return self._encode(texts, "text", self.feature(normalize=normalize), batch_size, None)

    def _encode(
        self,
        inputs: object,
        kind: Kind | None,
        feature: Feature,
        batch_size: int | None,
        skipped: dict[int, InputError] | None,
        advance: Callable[[int], object] = lambda items: None,
    ) -> np.ndarray:
        values, single = as_list(inputs)
        pairs = [of_modality(value) for value in values]
        requests = [self._request(index, value, kind or stated) for index, (value, stated) in enumerate(pairs)]
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
            advance(len(batch))
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


def check_transform(name: str) -> None:
    """Raise ConfigError for an unknown transform."""
    if name not in TRANSFORMS:
        raise ConfigError(f"the transform {name!r} is unknown; use {' or '.join(TRANSFORMS)}")


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
