"""A model with its transform and tokenizer: pixels and texts to embeddings and features.

Features are those of the last layer or of any earlier one, pooled in one of four ways. Computation runs in bfloat16 if
the machine has fast bfloat16 (timed, not assumed), else in float32; results are float32.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.weights import Model, load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform, image_transform, to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, tokenizer, trim

POOLS = ("attn", "cls", "mean", "tokens")
CACHED_ACTIVATIONS = 640_000
"""Tokens x width of a batch that fits a CPU core's cache (measured: 2 MiB of L2, bfloat16)."""


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Which features to take from a model; `Embedder.feature` fills in its defaults and checks them."""

    layer: int
    """0-based block of the vision tower whose tokens are taken; the last one's go through `ln_post`."""
    pool: str
    """"attn" (the model's own pooling and projection, after the last layer), "cls" (class token), "mean" or "tokens"
    (patch tokens, row by row)."""
    normalize: bool = True
    """Unit length; of a video: the mean of its frames' embeddings, each of its own length, made unit length."""
    frames: int = 8
    """Uniform frames of a video."""


class Embedder:
    """A model with its transform and tokenizer; threads may share one."""

    def __init__(
        self, model: Model, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """`device`: by default a CUDA GPU if there is one. `dtype`: by default bfloat16 if it is fast.

        The model is copied if it has another device or type.
        """
        self.device = choose_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        self.name = model.name
        fits = all(p.is_meta or (p.dtype, p.device) == (self.dtype, self.device) for p in model.parameters())
        self.model = model if fits else copy.deepcopy(model).to(self.device, self.dtype)
        self.transform: ImageTransform = image_transform(model)
        self.tokenizer: Tokenizer | None = tokenizer(model) if isinstance(model, CLIP) else None
        self.fetch_limits = FetchLimits()
        self._original = model
        self._source: str | Path | None = None
        self._cached_hash: CachedHash | None = None

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        details = f"{self.name!r}, dimension={self.dimension}, device={str(self.device)!r}, dtype={dtype!r}"
        return f"{type(self).__name__}({details})"

    @property
    def visual(self) -> VisionTransformer:
        """The vision tower."""
        return self.model.visual if isinstance(self.model, CLIP) else self.model

    @property
    def dimension(self) -> int:
        """Length of an embedding, D, with the default layer and pooling."""
        config = self.visual.config
        return config.output_dim or config.width

    @property
    def reads_texts(self) -> bool:
        """Whether the model has a text tower."""
        return self.tokenizer is not None

    @cached_property
    def weight_hash(self) -> str:
        """Identifies the weights, whatever `dtype` they are used in; takes a second a gigabyte.

        The hash of a file is cached; the first time, the file is read once more if `dtype` is not float32.
        """
        return self._hash_weights() if self._cached_hash is None else self._cached_hash.get(self._hash_weights)

    def _hash_weights(self) -> str:
        exact = all(p.dtype == torch.float32 and not p.is_meta for p in self._original.parameters())
        return weight_hash(self._original if exact or self._source is None else load_model(self._source))

    def cache_hash(self, source: str | Path, cached_hash: CachedHash | None) -> None:
        """Note what the model was loaded from, and the cached hash of the file."""
        self._source, self._cached_hash = source, cached_hash

    @property
    def batch_size(self) -> int:
        """Images to compute together: on a CPU, those whose activations fit a core's cache."""
        config = self.visual.config
        return max(2, CACHED_ACTIVATIONS // (config.grid**2 * config.width)) if self.device.type == "cpu" else 64

    @property
    def text_batch_size(self) -> int:
        """Texts to compute together."""
        return 64 if self.device.type == "cpu" else 512

    def feature(
        self, layer: int | None = None, pool: str | None = None, normalize: bool = True, frames: int = 8
    ) -> Feature:
        """Which features to take: by default the model's own output.

        `layer`: 0-based or, from the end, negative; the last by default. `pool`: see `Feature`; by default "attn" after
        the last layer of a model that has it, else "mean". Raises ConfigError for what the model does not have.
        """
        config = self.visual.config
        index = self.visual.layer_indices([-1 if layer is None else layer])[0]
        pooled_here = config.pools and index == config.depth - 1
        pool = pool or ("attn" if pooled_here else "mean")
        if pool not in POOLS:
            raise ConfigError(f"pool is {pool!r}; it must be one of {', '.join(POOLS)}")
        if pool == "attn" and not pooled_here:
            where = f"has it after layer {config.depth - 1} only" if config.pools else "has none"
            raise ConfigError(f"no pool 'attn' after layer {index}: {self.name} {where}; take mean, cls or tokens")
        if pool == "cls" and not config.class_token:
            raise ConfigError(f"{self.name} has no class token; take another pool than 'cls'")
        if frames < 1:
            raise ConfigError(f"frames is {frames}; a video needs at least 1")
        return Feature(layer=index, pool=pool, normalize=normalize, frames=frames)

    def width(self, feature: Feature) -> int:
        """Length of an embedding or token of `feature`, D."""
        return self.dimension if feature.pool == "attn" else self.visual.config.width

    def describe(self, feature: Feature) -> dict[str, object]:
        """What the values of `feature` depend on, apart from the inputs; also their `dimension` and the patch grid."""
        height, width = (self.transform.size,) * 2 if isinstance(self.transform.size, int) else self.transform.size
        patch = self.visual.config.patch_size
        return {
            "model": self.name,
            "weight_hash": self.weight_hash,
            "layer": feature.layer,
            "pool": feature.pool,
            "normalised": feature.normalize,
            "frames": feature.frames,
            "dtype": str(self.dtype).removeprefix("torch."),
            "transform": self.transform.mode,
            "size": [height, width],
            "grid": [height // patch, width // patch],
            "dimension": self.width(feature),
        }

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], feature: Feature) -> Float[Tensor, "B D"]:
        """Embeddings of texts: float32 (B, D) on the CPU; ConfigError for a `feature` that texts do not have."""
        if not isinstance(self.model, CLIP) or self.tokenizer is None:
            raise ConfigError(f"{self.name} has no text tower; take a Core model for texts")
        if feature.pool != "attn":
            raise ConfigError("texts share a space with the model's own output only; leave out layer and pool")
        tokens = trim(self.tokenizer(texts)).to(self.device)  # (B, T)
        return self._finished(self.model.encode_text(tokens), feature)

    @torch.inference_mode()
    def embed_pixels(self, pixels: UInt8[Tensor, "B 3 H W"], feature: Feature) -> Float[Tensor, "B *N D"]:
        """Features of images after `transform.pixels`: float32 (B, D), or tokens (B, N, D), on the CPU.

        A video's frames are averaged before they are made unit length, so ask for them without `normalize`.
        """
        visual = self.visual
        if visual.conv1.weight.is_meta:
            raise ConfigError(f"{self.name} was loaded with towers='text'; load it whole for images and videos")
        batch = to_float(pixels.to(self.device)).to(self.dtype)
        if feature.pool == "attn":
            return self._finished(visual(batch), feature)
        patches, prefix = visual.forward_intermediates(  # (B, N, D), (B, 0 or 1, D)
            batch,
            [feature.layer],
            return_prefix_tokens=True,
            norm=feature.layer == visual.config.depth - 1,
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )[0]
        if feature.pool == "mean":
            return self._finished(patches.float().mean(dim=1), feature)
        return self._finished(patches if feature.pool == "tokens" else prefix[:, 0], feature)

    def _finished(self, features: Tensor, feature: Feature) -> Tensor:
        features = features.float().cpu()
        if not features.isfinite().all():
            raise ModelError(f"{self.name} gives NaN or infinity in {self.dtype}: its weights are bad, or need float32")
        return F.normalize(features, dim=-1) if feature.normalize else features
