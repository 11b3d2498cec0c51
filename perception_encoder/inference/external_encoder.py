"""Encoders for other libraries' models: their own output, or a layer of their vision tower."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.pipeline import Feature
from perception_encoder.models.external import Adapter, Mode, Pixels, Role, SentenceTransformersModel
from perception_encoder.models.precision import choose_device
from perception_encoder.models.registry import library_model_name
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform, check_transform
from perception_encoder.runtime.runtime import plain_threads
from perception_encoder.runtime.torch_runtime import TorchThreads, as_array, pooled


@dataclass(frozen=True)
class _LibraryTransform:
    """A library's transform behind our interface."""

    transform: Callable[[Image.Image], Pixels]
    mode: Mode

    def pixels(self, image: Image.Image) -> Pixels:
        """Return what the library makes of an image."""
        return self.transform(image.convert("RGB"))


class _OutputRuntime(TorchThreads):
    """A library's own embeddings; `model` is the library's module."""

    def __init__(self, adapter: Adapter, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device, dtype)
        self.model = adapter.model.eval().requires_grad_(False).to(device, dtype)
        self.batch_size = 8 if device.type == "cpu" else 64
        self.per_core = self.per_core and not isinstance(adapter, SentenceTransformersModel)

    def threads(self, count: int) -> AbstractContextManager[ThreadPoolExecutor]:
        """See `Runtime`; a model that computes one batch at a time does so with all cores."""
        return super().threads(count) if self.per_core else plain_threads(count)

    def images(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        """See `Runtime`; not of these models, whose pixels may differ in size."""
        raise NotImplementedError


class _LayerRuntime(TorchThreads):
    """Tokens of a layer."""

    def __init__(self, features: LayerFeatures) -> None:
        super().__init__(features.device, features.dtype)
        self.model = features.tower.model
        self.batch_size = max(2, features.batch_size(features.image_size))
        self.features = features

    @torch.inference_mode()
    def images(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        """See `Runtime`."""
        return pooled(*self.features.split_tokens(torch.from_numpy(pixels), layer), pool)


class _ExternalEncoder(Encoder):
    """Shared parts of other libraries' encoders."""

    def __init__(self, name: str, runtime: _OutputRuntime | _LayerRuntime) -> None:
        self.name, self._source, self.runtime = library_model_name(name), name, runtime
        self.tokenizer, self.fetch_limits = None, FetchLimits()

    @property
    def source(self) -> str:
        return self._source

    @property
    def visual(self) -> VisionTransformer:
        raise ConfigError(f"{self.name} is not a model of this package; it has embeddings only")

    def _describe_grid(self) -> dict[str, Any]:
        return {}


class OutputEncoder(_ExternalEncoder):
    """A library's model with its own embeddings, by default in float32."""

    depth, has_class_token, has_output = 0, False, True

    def __init__(
        self, adapter: Adapter, device: torch.device | None = None, dtype: torch.dtype = torch.float32
    ) -> None:
        self.adapter = adapter
        super().__init__(adapter.name, _OutputRuntime(adapter, device or choose_device(), dtype))
        self.transform = _LibraryTransform(adapter.transform("crop"), "crop")
        self.reads_images, self.reads_videos = adapter.reads_images, adapter.reads_videos
        self.weight_hash, self.logit_bias = adapter.weight_hash, adapter.logit_bias

    @property
    def reads_texts(self) -> bool:
        return self.adapter.reads_texts

    @cached_property
    def logit_scale(self) -> float | None:
        return self.adapter.logit_scale if self.reads_texts else None

    @property
    def about(self) -> dict[str, str]:
        return {**super().about, **self.adapter.versions}

    def _describe_grid(self) -> dict[str, Any]:
        return {"prompts": self.adapter.prompts}

    def variant(self, *, transform: str | None = None, layer: int | None = None, pool: str | None = None) -> Encoder:
        """See `Encoder.variant`; at a layer, images are squashed."""
        if layer is not None or pool is not None:
            features = LayerFeatures(self._source, self.adapter.tower(), final_norm=True)
            return LayerEncoder(features).variant(transform=transform, layer=layer, pool=pool)
        changed = copy.copy(self)
        if transform is not None:
            check_transform(transform)
            mode = cast(Mode, transform)
            changed.transform = _LibraryTransform(self.adapter.transform(mode), mode)
        return changed

    @cached_property
    def _width(self) -> int:
        if not self.reads_images:
            return int(self._texts(["a"], None).shape[-1])
        return int(self._images([self.transform.pixels(Image.new("RGB", (32, 32)))], self.feature()).shape[-1])

    def _full_width(self, feature: Feature) -> int:
        return self._width

    @torch.inference_mode()
    def _images(self, pixels: Any, feature: Feature) -> np.ndarray:
        return as_array(self.adapter.embed_images(list(pixels), feature.role))

    @torch.inference_mode()
    def embed_video(self, pixels: Any, times: Sequence[float], feature: Feature) -> np.ndarray:
        """See `Encoder`."""
        return self._finish(as_array(self.adapter.embed_video(list(pixels), times, feature.role)), feature)

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str], role: Role) -> np.ndarray:
        return as_array(self.adapter.embed_texts(list(texts), role))


class LayerEncoder(_ExternalEncoder):
    """A vision tower without its own output: pooled tokens of a layer, by default the last."""

    has_output = False

    def __init__(self, features: LayerFeatures) -> None:
        super().__init__(features.name, _LayerRuntime(features))
        self.features, self.weight_hash = features, features.tower.weight_hash
        self.transform = ImageTransform(features.image_size)

    @property
    def depth(self) -> int:
        return self.features.depth

    @property
    def has_class_token(self) -> bool:
        return self.features.tower.class_token

    @property
    def about(self) -> dict[str, str]:
        feature = self.feature()
        return {**self.features.about, "layer": str(feature.layer), "pool": feature.pool}

    def variant(self, *, transform: str | None = None, layer: int | None = None, pool: str | None = None) -> Encoder:
        """See `Encoder.variant`; images are squashed."""
        if transform not in (None, "squash"):
            raise ConfigError(f"a layer of {self.name} takes squashed images only; transform is {transform!r}")
        return super().variant(layer=layer, pool=pool)

    def _full_width(self, feature: Feature) -> int:
        return self.features.width
