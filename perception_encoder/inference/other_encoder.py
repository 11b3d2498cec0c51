"""Models of timm, open_clip and transformers, and random towers, behind `Encoder`'s interface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.inference.embedder import Feature
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.layer_encoder import TowerEncoder
from perception_encoder.inference.open_model import OwnModel, load_layer_encoder, open_model
from perception_encoder.models.checkpoints.weights import TowerChoice
from perception_encoder.models.external.external_model import ExternalEncoder
from perception_encoder.models.external.transformers_models import TransformersModel
from perception_encoder.models.precision import choose_device
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform


@dataclass(frozen=True)
class _Pixels:
    """A library's own transform under the name of ours."""

    transform: Any
    mode: str = "crop"

    def pixels(self, image: Image.Image) -> Tensor:
        """Pixels of one image, (3, H, W)."""
        return torch.as_tensor(self.transform(image.convert("RGB")))


class OtherEncoder(Encoder):
    """An encoder of another library for `encode` and its kin; `model` is that library's module.

    It has no layers or pools to choose; `load_layer_encoder` reads the layers of plain vision transformers.
    """

    def __init__(self, name: str, inner: ExternalEncoder | TowerEncoder, weight_hash: str) -> None:
        self.inner, self.name = inner, name
        self.device, self.dtype = inner.device, getattr(inner, "dtype", torch.float32)
        self.model: Any = inner.model if isinstance(inner, ExternalEncoder) else inner.tower
        if isinstance(inner, ExternalEncoder):
            self.transform: Any = _Pixels(inner.transform)
        else:
            self.transform = ImageTransform(inner.image_size)
        self.tokenizer, self.fetch_limits, self._hash = None, FetchLimits(), weight_hash

    @property
    def visual(self) -> VisionTransformer:
        """Raise ConfigError: the model is not of this package."""
        raise ConfigError(f"{self.name} is not a model of this package; it gives embeddings only")

    @cached_property
    def dimension(self) -> int:
        """Length of an embedding, D."""
        blank = self.transform.pixels(Image.new("RGB", (32, 32)))
        return self.embed_pixels(blank[None], self.feature()).shape[-1]

    @property
    def reads_texts(self) -> bool:
        """Whether the model has a text tower."""
        inner = self.inner
        return isinstance(inner, ExternalEncoder) and type(inner).embed_texts is not ExternalEncoder.embed_texts

    @cached_property
    def weight_hash(self) -> str:
        """Identifies the weights."""
        return self._hash

    @property
    def batch_size(self) -> int:
        """Images to compute together."""
        return 8 if self.device.type == "cpu" else 64

    def feature(
        self, layer: int | None = None, pool: str | None = None, normalize: bool = True, frames: int = 8
    ) -> Feature:
        """The model's own output; ConfigError for a layer or a pool."""
        if layer is not None or pool is not None:
            raise ConfigError(f"{self.name} gives its own output only; leave out layer and pool")
        if frames < 1:
            raise ConfigError(f"frames is {frames}; a video needs at least 1")
        return Feature(layer=-1, pool="attn", normalize=normalize, frames=frames)

    def width(self, feature: Feature) -> int:
        """Length of an embedding, D."""
        return self.dimension

    def describe(self, feature: Feature) -> dict[str, object]:
        """What embeddings depend on, apart from the inputs."""
        return {
            "model": self.name,
            "weight_hash": self.weight_hash,
            "layer": feature.layer,
            "pool": feature.pool,
            "normalised": feature.normalize,
            "frames": feature.frames,
            "dtype": str(self.dtype).removeprefix("torch."),
            "transform": self.transform.mode,
            "dimension": self.dimension,
        }

    @torch.inference_mode()
    def embed_pixels(self, pixels: Tensor, feature: Feature) -> Tensor:
        """Embeddings of images after `transform.pixels`: float32 (B, D) on the CPU."""
        if isinstance(self.inner, ExternalEncoder):
            return self._finished(self.inner.embed_pixels(pixels.to(self.device)), feature)
        images = [Image.fromarray(np.asarray(each.permute(1, 2, 0))) for each in pixels]
        return self._finished(torch.from_numpy(self.inner.encode_images(images, normalize=False)), feature)

    @torch.inference_mode()
    def embed_texts(self, texts: Any, feature: Feature) -> Tensor:
        """Embeddings of texts: float32 (B, D) on the CPU; ConfigError for a model without a text tower."""
        if not isinstance(self.inner, ExternalEncoder):
            raise ConfigError(f"{self.name} has no text tower; take a Core model for texts")
        vectors = self.inner.embed_texts(list(texts)).float().cpu()
        return F.normalize(vectors, dim=-1) if feature.normalize else vectors


def load_any(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    towers: TowerChoice = "all",
) -> Encoder:
    """Load a model with its weights as an `Encoder`.

    `name`: "builtin"; any model name or alias, fetched from the hub once; the path of a checkpoint, or of a directory
    that `pe convert` wrote; or another library's model, as `pe eval` takes it: "timm:NAME", "open_clip:NAME,WEIGHTS",
    "hf:NAME", each also with `local-dir:PATH` or a path, and "random:NAME" for random weights. `device`, `dtype`: see
    `Embedder`; for other libraries the default only. `towers="text"` leaves the vision tower of a two-tower model
    unread: it then encodes texts alone. Raises UnknownModelError, CheckpointError, WeightsUnavailableError, and
    MissingExtraError without the library.
    """
    model = open_model(name)
    if isinstance(model, OwnModel) and not model.random:
        return load(name, device, dtype, towers=towers)
    if isinstance(model, OwnModel | TransformersModel) or model.random:
        tower = load_layer_encoder(name, device, dtype, final_norm=True)
        return OtherEncoder(model.name, tower, tower.tower.weight_hash)
    if dtype not in (None, torch.float32) or (device is not None and choose_device(device) != choose_device()):
        raise ConfigError(f"{name} runs in float32 on {choose_device().type}; leave out device and dtype")
    return OtherEncoder(model.name, model.encoder("crop"), model.about()["weights"])
