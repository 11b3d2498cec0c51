"""Encoders for other libraries' models: their own output, in torch or OpenVINO, or a layer of their vision tower."""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perception_encoder.errors import ConfigError
from perception_encoder.files import digest
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.pipeline import Feature
from perception_encoder.models.external import Adapter, Mode, Pixels, Role
from perception_encoder.models.external_sentences import SentenceTransformersModel
from perception_encoder.models.precision import choose_device
from perception_encoder.models.registry import library_model_name
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform, check_transform
from perception_encoder.runtime.cache import Key, Tower
from perception_encoder.runtime.convert import Source, example_pixels
from perception_encoder.runtime.machine import core_count
from perception_encoder.runtime.openvino_runtime import CompiledTowers, FallbackWarning
from perception_encoder.runtime.quantization import calibration_pixels, calibration_texts, check_captions, check_pixels
from perception_encoder.runtime.runtime import Precision, Runtime, RuntimeName
from perception_encoder.runtime.torch_runtime import TorchThreads, as_array, pooled

logger = logging.getLogger(__name__)
_SHORT, _LONG = (choose(check_captions(), key=len) for choose in (min, max))
_DOCUMENT = " ".join([_LONG] * 100)
_MAX_TOKENS = 1 << 14
"""Of texts computed together, padding included: masks of long ones need much memory."""


@dataclass(frozen=True)
class _LibraryTransform:
    """A library's transform behind our interface."""

    transform: Callable[[Image.Image], Pixels]
    mode: Mode
    size: Sequence[int] | None
    """Height and width of all its images; None if they differ."""

    def pixels(self, image: Image.Image) -> Pixels:
        """Return an image as the library preprocesses it."""
        return self.transform(image.convert("RGB"))


class _OutputTower(nn.Module):
    """A library's tower, with its arguments as one tensor (B, K, …): one of pixels, or token ids and a mask."""

    def __init__(
        self, model: nn.Module, output: Callable[[dict[str, Tensor]], Tensor], arguments: Iterable[str]
    ) -> None:
        super().__init__()
        self.model, self.output, self.arguments = model, output, tuple(arguments)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(dict(zip(self.arguments, inputs.unbind(1), strict=True)))


class _CompiledOutput(CompiledTowers):
    """A library's own embeddings in OpenVINO; where that fails, torch computes in float32."""

    def __init__(self, adapter: Adapter, transform: _LibraryTransform, precision: Precision) -> None:
        self.adapter, self.transform, self.shape = adapter, transform, adapter.image_shape
        self.text_tower = self._text_tower("query")
        super().__init__(library_model_name(adapter.name), precision, "image" if self.shape else self.text_tower)
        self.text_batch_size = min(64, 8 * core_count())  # a batch has the length of its longest text
        if adapter.reads_texts and not adapter.has_token_rows:
            self._towers[self.text_tower, None] = None
            logger.info("%s: its texts are not rows of token ids, so torch computes them", self.model_name)

    def _text_tower(self, role: Role) -> Tower:
        return self.adapter.part(role) or "text"

    def prepare(self, layer: int | None) -> tuple[RuntimeName, Precision]:
        self._with_tower(self._main, None, lambda tower: tower.prepare())
        return self.used(layer)

    def used(self, layer: int | None, texts: bool = False) -> tuple[RuntimeName, Precision]:
        return super().used(layer, texts or self._main != "image")

    def embed_images(self, images: Sequence[Pixels]) -> np.ndarray | None:
        """Return embeddings of images, float32 (B, D); None if torch must answer."""
        if self.shape is None:
            return None
        batch = [np.stack(list(image.values())) for image in images]
        if any(arguments.shape != (1, *self.shape) for arguments in batch):
            warnings.warn(f"{self.model_name}: images of another size need torch", FallbackWarning, stacklevel=2)
            return None
        return self.run("image", None, np.stack(batch))

    def embed_texts(self, texts: Sequence[str], role: Role) -> np.ndarray | None:
        """Return embeddings of texts, float32 (B, D); None if torch must answer."""
        if not self.adapter.has_token_rows:
            return None
        tokens, tower = self._tokens(texts, role), self._text_tower(role)
        parts = np.array_split(tokens, math.ceil(len(tokens) / max(1, _MAX_TOKENS // tokens.shape[-1])) or 1)
        found = [self.run(tower, None, part) for part in parts]
        return None if any(rows is None for rows in found) else np.concatenate(cast(list[np.ndarray], found))

    def _tokens(self, texts: Sequence[str], role: Role) -> np.ndarray:
        return np.stack([values.numpy() for values in self.adapter.tokens(list(texts), role).values()], axis=1)

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        found = [self.transform.pixels(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
        return np.stack([np.stack(list(pixels.values())) for pixels in found])

    def _example(self, name: Tower) -> np.ndarray:
        """Return two inputs as the library prepares them; texts differ in length."""
        if name != "image":
            return self._tokens([_SHORT, _LONG], _role(name))
        assert self.shape is not None
        return self._pixels(example_pixels(2, *self.shape[1:]))

    def _key(self, name: Tower, layer: int | None) -> Key:
        example = self._example(name)
        prepared = [*example.shape, digest(example.tobytes())]
        return Key(
            model=self.model_name,
            weights=self.adapter.weight_hash,
            config={"structure": self.adapter.structure, "example": prepared, **self.adapter.versions},
            tower=name,
            precision=self.precision,
        )

    def _source(self, name: Tower, layer: int | None) -> Source:
        adapter, example = self.adapter, self._example(name)
        if name == "image":
            assert self.shape is not None
            adapter, (_, height, width) = adapter.of_one_size(), self.shape
            arguments = self.transform.pixels(Image.new("RGB", (width, height)))
            return Source(
                name,
                _OutputTower(adapter.model, adapter.image_output, arguments),
                example,
                (-1, *example.shape[1:]),
                lambda: self._pixels(check_pixels(height, width)),
                lambda: self._pixels(calibration_pixels(height, width)),
            )
        role = _role(name)
        others = [self._tokens(texts, role) for texts in ([_SHORT], [_LONG], [_SHORT, _DOCUMENT])]
        padded = others[0].shape == others[1].shape
        shape = (-1, *example.shape[1:]) if padded else (-1, example.shape[1], -1)
        return Source(
            name,
            _OutputTower(adapter.model, partial(adapter.text_output, role=role), adapter.tokens([_SHORT], role)),
            example,
            shape,
            lambda: self._tokens(check_captions(), role),
            lambda: [self._tokens([text], role)[0] for text in calibration_texts()],
            others,
        )


def _role(name: Tower) -> Role:
    return name if name == "query" or name == "document" else None


class _TorchImages(TorchThreads):
    """Images in torch, of a model whose texts OpenVINO computes."""

    def __init__(self, texts: _CompiledOutput, batch_size: int, per_core: bool) -> None:
        super().__init__(torch.device("cpu"), torch.float32, batch_size, per_core)
        self.texts, self.text_batch_size = texts, texts.text_batch_size

    def used(self, layer: int | None, texts: bool = False) -> tuple[RuntimeName, Precision]:
        return self.texts.used(layer) if texts else super().used(layer)


class _ExternalEncoder(Encoder):
    """Shared parts of other libraries' encoders."""

    def __init__(self, name: str, runtime: Runtime) -> None:
        self.name, self.source, self.runtime = library_model_name(name), name, runtime
        self.tokenizer, self.fetch_limits = None, FetchLimits()

    @property
    def visual(self) -> VisionTransformer:
        raise ConfigError(f"{self.name} is not a model of this package; it has embeddings only")


class OutputEncoder(_ExternalEncoder):
    """A library's model with its own embeddings, by default with torch in float32."""

    depth, has_class_token, has_output = 0, False, True

    def __init__(
        self,
        adapter: Adapter,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        compiled: Precision | None = None,
    ) -> None:
        """`compiled`: compute with OpenVINO, in this precision."""
        self.adapter, self.transforms = adapter, adapter.modes
        self.model = adapter.model.eval().requires_grad_(False)
        self.reads_images, self.reads_videos = adapter.reads_images, adapter.reads_videos
        self.weight_hash, self.logit_bias = adapter.weight_hash, adapter.logit_bias  # before the weights are rounded
        self.logit_scale = adapter.logit_scale if adapter.reads_texts else None
        device, dtype = torch.device("cpu") if compiled else device or choose_device(), dtype or torch.float32
        self.model.to(device, dtype)
        self._width = adapter.width
        self.transform = transform = self._transform("crop")
        self._compiled = _CompiledOutput(adapter, transform, compiled) if compiled else None
        self.has_roles = isinstance(adapter, SentenceTransformersModel)
        whole = self.has_roles and not adapter.image_shape  # its images wait at their full size
        batch_size, per_core = 8 if whole or device.type == "cpu" else 64, not self.has_roles
        runtime: Runtime = self._compiled or TorchThreads(device, dtype, batch_size, per_core)
        if self._compiled and self.reads_images and not adapter.image_shape:
            runtime = _TorchImages(self._compiled, batch_size, per_core)
            note = "%s: its images differ in size, so torch computes them in float32, and OpenVINO its texts"
            logger.log(logging.WARNING if compiled == "int8" else logging.INFO, note, library_model_name(adapter.name))
        super().__init__(adapter.name, runtime)

    @property
    def reads_texts(self) -> bool:
        return self.adapter.reads_texts

    def _transform(self, mode: Mode) -> _LibraryTransform:
        shape = self.adapter.image_shape if self.reads_images else None
        return _LibraryTransform(self.adapter.transform(mode), mode, shape and shape[1:])

    @property
    def about(self) -> dict[str, str]:
        return {**super().about, **self.adapter.versions}

    @property
    def prompts(self) -> dict[str, str]:
        return self.adapter.prompts

    def _describe_grid(self) -> dict[str, Any]:
        runtime, precision = self.runtime.used(None, texts=True)
        return {"prompts": self.prompts} | ({"texts": f"{runtime} {precision}"} if self.reads_texts else {})

    def variant(self, *, transform: str | None = None, layer: int | None = None, pool: str | None = None) -> Encoder:
        """See `Encoder.variant`; at a layer, images are squashed."""
        if layer is not None or pool is not None:
            tower = self.adapter.tower()  # whose weights are shared, so they stay as they are
            features = LayerFeatures(self.source, tower, self.device, self.dtype, final_norm=True)
            return LayerEncoder(features).variant(transform=transform, layer=layer, pool=pool)
        changed = copy.copy(self)
        if transform is not None:
            check_transform(transform)
            changed.transform = self._transform(cast(Mode, transform))
        return changed

    def _full_width(self, feature: Feature) -> int:
        return self._width

    def _images(self, pixels: Any, feature: Feature) -> np.ndarray:
        found = self._compiled.embed_images(pixels) if self._compiled else None
        if found is None:
            with torch.inference_mode():
                return as_array(self.adapter.embed_images(list(pixels), feature.role))
        return found

    @torch.inference_mode()
    def embed_video(self, pixels: Any, times: Sequence[float], feature: Feature) -> np.ndarray:
        return self._finish(as_array(self.adapter.embed_video(list(pixels), times, feature.role)), feature)

    def _texts(self, texts: Sequence[str], role: Role) -> np.ndarray:
        found = self._compiled.embed_texts(texts, role) if self._compiled else None
        if found is None:
            with torch.inference_mode():
                return as_array(self.adapter.embed_texts(list(texts), role))
        return found


class LayerEncoder(_ExternalEncoder):
    """A vision tower without its own output: pooled tokens of a layer, by default the last."""

    has_output = False

    def __init__(self, features: LayerFeatures) -> None:
        batch_size = max(2, features.batch_size(features.image_size))
        super().__init__(features.name, TorchThreads(features.device, features.dtype, batch_size))
        self.features, self.model, self.weight_hash = features, features.tower.model, features.tower.weight_hash
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

    def _describe_grid(self) -> dict[str, Any]:
        size, patch = self.features.image_size, self.features.patch_size
        return {"size": [*size], "grid": [side // patch for side in size]}

    @torch.inference_mode()
    def _images(self, pixels: Sequence[Any], feature: Feature) -> np.ndarray:
        tokens = self.features.split_tokens(torch.from_numpy(np.asarray(pixels)), feature.layer)
        return pooled(*tokens, feature.pool)
