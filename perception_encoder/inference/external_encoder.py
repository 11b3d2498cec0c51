"""Encoders for timm, open_clip and transformers models: their own output, or a layer of their vision tower."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.pipeline import Feature
from perception_encoder.models.external import Adapter, Mode
from perception_encoder.models.precision import choose_device
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform, check_transform
from perception_encoder.runtime.torch_runtime import TorchThreads, as_array, pooled


@dataclass(frozen=True)
class _LibraryTransform:
    """A library's transform behind our interface."""

    transform: Any
    mode: Mode

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the pixels of one image, (3, H, W)."""
        return torch.as_tensor(self.transform(image.convert("RGB"))).numpy()


class _ExternalRuntime(TorchThreads, ABC):
    """Executes a module of another library with torch."""

    def __init__(self, model: Any, device: torch.device, dtype: torch.dtype, batch_size: int) -> None:
        super().__init__(device, dtype)
        self.model, self.batch_size = model, batch_size

    @abstractmethod
    def images(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray: ...


class _OutputRuntime(_ExternalRuntime):
    """A library's own embeddings."""

    def __init__(self, adapter: Adapter) -> None:
        device = choose_device()
        super().__init__(adapter.model, device, torch.float32, 8 if device.type == "cpu" else 64)
        self.adapter = adapter

    @torch.inference_mode()
    def images(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        """See `Runtime`; the pixels are scaled by the library's transform."""
        return as_array(self.adapter.embed_pixels(torch.from_numpy(pixels).to(self.torch_device)))


class _LayerRuntime(_ExternalRuntime):
    """Tokens of a layer."""

    def __init__(self, features: LayerFeatures) -> None:
        batch = max(2, features.batch_size(features.image_size))
        super().__init__(features.tower.model, features.device, features.dtype, batch)
        self.features = features

    @torch.inference_mode()
    def images(self, pixels: np.ndarray, layer: int, pool: str) -> np.ndarray:
        """See `Runtime`."""
        return pooled(*self.features.split_tokens(torch.from_numpy(pixels), layer), pool)


class _ExternalEncoder(Encoder):
    """Shared parts of other libraries' encoders; `model` is the library's module."""

    def __init__(self, name: str, runtime: _ExternalRuntime) -> None:
        self.name, self.runtime = name, runtime
        self.tokenizer, self.fetch_limits = None, FetchLimits()

    @property
    def source(self) -> str:
        return self.name

    @property
    def visual(self) -> VisionTransformer:
        raise ConfigError(f"{self.name} is not a model of this package; it has embeddings only")

    def _describe_grid(self) -> dict[str, Any]:
        return {}


class OutputEncoder(_ExternalEncoder):
    """A library's model with its own embeddings, in float32 on the default device."""

    depth, has_class_token, has_output = 0, False, True

    def __init__(self, adapter: Adapter, mode: Mode = "crop") -> None:
        self.adapter = adapter
        super().__init__(adapter.name, _OutputRuntime(adapter))
        self.transform = _LibraryTransform(adapter.transform(mode), mode)
        self.weight_hash = adapter.weight_hash
        self.model.eval().to(self.device)

    @property
    def reads_texts(self) -> bool:
        return self.adapter.reads_texts

    @property
    def about(self) -> dict[str, str]:
        return {**super().about, **self.adapter.versions}

    def variant(self, *, transform: str | None = None, layer: int | None = None, pool: str | None = None) -> Encoder:
        """See `Encoder.variant`; at a layer, images are squashed."""
        mode: Mode = "squash" if transform == "squash" else "crop"
        if transform is not None:
            check_transform(transform)
        if layer is None and pool is None:
            return OutputEncoder(self.adapter, mode)
        features = LayerFeatures(self.name, self.adapter.tower(), final_norm=True)
        return LayerEncoder(features).variant(transform=transform, layer=layer, pool=pool)

    @cached_property
    def _dimension(self) -> int:
        blank = self.transform.pixels(Image.new("RGB", (32, 32)))
        return self.embed_pixels(blank[None], self.feature()).shape[-1]

    def width(self, feature: Feature) -> int:
        return self._dimension

    @torch.inference_mode()
    def _texts(self, texts: Sequence[str]) -> np.ndarray:
        return as_array(self.adapter.embed_texts(list(texts), self.device))


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

    def width(self, feature: Feature) -> int:
        return self.features.width
