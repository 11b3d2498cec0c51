"""The towers of other libraries' models: their own embeddings, by default in torch, or in OpenVINO."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perception_encoder.files import digest
from perception_encoder.models.external import Adapter, Mode, Pixels, Role
from perception_encoder.models.external_sentences import SentenceTransformersModel
from perception_encoder.models.precision import choose_device
from perception_encoder.models.registry import library_model_name
from perception_encoder.preprocess.image import check_transform
from perception_encoder.runtime.cache import Key, Tower
from perception_encoder.runtime.convert import Source, example_pixels
from perception_encoder.runtime.layer_towers import LayerTowers
from perception_encoder.runtime.machine import core_count
from perception_encoder.runtime.openvino_towers import CompiledTowers, FallbackWarning
from perception_encoder.runtime.quantization import calibration_pixels, calibration_texts, check_captions, check_images
from perception_encoder.runtime.runtime import Precision, RuntimeName
from perception_encoder.runtime.torch_towers import TorchThreads, as_array
from perception_encoder.runtime.towers import Towers

logger = logging.getLogger(__name__)
_SHORT, _LONG = (choose(check_captions(), key=len) for choose in (min, max))
_DOCUMENT = " ".join([_LONG] * 100)
MAX_TOKENS = 1 << 14
"""Of texts computed together, padding included: masks of long ones need much memory."""


@dataclass(frozen=True)
class LibraryTransform:
    """A library's transform behind our interface."""

    transform: Callable[[Image.Image], Pixels]
    mode: Mode
    size: Sequence[int] | None
    """Height and width of all its images; None if they differ."""

    def pixels(self, image: Image.Image) -> Pixels:
        """Return an image as the library preprocesses it."""
        return self.transform(image.convert("RGB"))


class LibraryTowers(Towers):
    """A library's model with its own embeddings, by default with torch in float32."""

    def __init__(
        self,
        adapter: Adapter,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        compiled: Precision | None = None,
    ) -> None:
        """`compiled`: compute with OpenVINO, in this precision."""
        self.adapter, self.name = adapter, library_model_name(adapter.name)
        self.modes, self.prompts, self.versions = adapter.modes, adapter.prompts, adapter.versions
        self.model = adapter.model.eval().requires_grad_(False)
        self.reads_images, self.reads_videos = adapter.reads_images, adapter.reads_videos
        self.reads_texts = adapter.reads_texts
        self.weight_hash, self.logit_bias = adapter.weight_hash, adapter.logit_bias  # before the weights are rounded
        self._logit_scale = adapter.logit_scale if adapter.reads_texts else None
        device, dtype = torch.device("cpu") if compiled else device or choose_device(), dtype or torch.float32
        self.device, self.dtype = device, dtype
        self.model.to(device, dtype)
        self.output_width = adapter.width
        graphs = _Graphs(adapter, self.transform("crop"))
        self._compiled = graphs.compiled(compiled) if compiled else None
        self.has_roles = isinstance(adapter, SentenceTransformersModel)
        whole = self.has_roles and not adapter.image_shape  # its images wait at their full size
        batch_size, per_core = 8 if whole or device.type == "cpu" else 64, not self.has_roles
        self.runtime = self._compiled or TorchThreads(device, dtype, batch_size, per_core)
        if self._compiled and self.reads_images and not adapter.image_shape:
            self.runtime = _TorchImages(self._compiled, batch_size, per_core)
            note = "%s: its images differ in size, so torch computes them in float32, and OpenVINO its texts"
            logger.log(logging.WARNING if compiled == "int8" else logging.INFO, note, self.name)

    @property
    def logit_scale(self) -> float | None:
        return self._logit_scale

    def transform(self, mode: str) -> LibraryTransform:
        check_transform(mode)
        shape, known = self.adapter.image_shape if self.reads_images else None, cast(Mode, mode)
        return LibraryTransform(self.adapter.transform(known), known, shape and shape[1:])

    def describe(self, size: Any) -> dict[str, Any]:
        """Return the prompts, and what computes texts."""
        runtime, precision = self.runtime.used(None, texts=True)
        return {"prompts": self.prompts} | ({"texts": f"{runtime} {precision}"} if self.reads_texts else {})

    def with_layers(self) -> LayerTowers:
        """Return the vision tower, whose weights are shared, so they stay as they are; layers in torch."""
        return LayerTowers(self.adapter.name, self.adapter.tower(), self.device, self.dtype, final_norm=True)

    def images(self, pixels: Sequence[Any] | np.ndarray, layer: int, pool: str, role: Role = None) -> np.ndarray:
        if self._compiled and self.adapter.image_shape:
            batch = [np.stack(list(image.values())) for image in pixels]
            if any(arguments.shape != (1, *self.adapter.image_shape) for arguments in batch):
                warnings.warn(f"{self.name}: images of another size need torch", FallbackWarning, stacklevel=2)
            elif (found := self._compiled.run("image", None, np.stack(batch))) is not None:
                return found
        with torch.inference_mode():
            return as_array(self.adapter.embed_images(list(pixels), role))

    @torch.inference_mode()
    def video(self, frames: Sequence[Pixels], times: Sequence[float], role: Role) -> np.ndarray:
        return as_array(self.adapter.embed_video(list(frames), times, role))

    def texts(self, texts: Sequence[str], role: Role = None) -> np.ndarray:
        if not self.reads_texts:
            return super().texts(texts)
        if (found := self._compiled_texts(texts, role)) is not None:
            return found
        with torch.inference_mode():
            return as_array(self.adapter.embed_texts(list(texts), role))

    def _compiled_texts(self, texts: Sequence[str], role: Role) -> np.ndarray | None:
        """Return embeddings of texts by OpenVINO; None if torch must answer."""
        if self._compiled is None or not self.adapter.has_token_rows:
            return None
        tokens, tower = _tokens(self.adapter, texts, role), _text_tower(self.adapter, role)
        parts = np.array_split(tokens, math.ceil(len(tokens) / max(1, MAX_TOKENS // tokens.shape[-1])) or 1)
        found = [self._compiled.run(tower, None, part) for part in parts]
        return None if any(rows is None for rows in found) else np.concatenate(cast(list[np.ndarray], found))


class _TorchImages(TorchThreads):
    """Images in torch, of a model whose texts OpenVINO computes."""

    def __init__(self, texts: CompiledTowers, batch_size: int, per_core: bool) -> None:
        super().__init__(torch.device("cpu"), torch.float32, batch_size, per_core)
        self.texts, self.text_batch_size = texts, texts.text_batch_size

    def used(self, layer: int | None, texts: bool = False) -> tuple[RuntimeName, Precision]:
        return self.texts.used(layer) if texts else super().used(layer)


class _OutputTower(nn.Module):
    """A library's tower, with its arguments as one tensor (B, K, …): one of pixels, or token ids and a mask."""

    def __init__(
        self, model: nn.Module, output: Callable[[dict[str, Tensor]], Tensor], arguments: Iterable[str]
    ) -> None:
        super().__init__()
        self.model, self.output, self.arguments = model, output, tuple(arguments)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output(dict(zip(self.arguments, inputs.unbind(1), strict=True)))


@dataclass(frozen=True)
class _Graphs:
    """What OpenVINO converts: a library's towers with examples of their inputs."""

    adapter: Adapter
    transform: LibraryTransform

    def compiled(self, precision: Precision) -> CompiledTowers:
        adapter = self.adapter
        name, texts = library_model_name(adapter.name), _text_tower(adapter, "query")
        main: Tower = "image" if adapter.image_shape else texts
        batch = min(64, 8 * core_count())  # a batch has the length of its longest text
        towers = CompiledTowers(name, precision, self.key, self.source, main, texts, batch)
        if adapter.reads_texts and not adapter.has_token_rows:
            towers.leave_to_torch(texts)
            logger.info("%s: its texts are not rows of token ids, so torch computes them", name)
        return towers

    def key(self, name: Tower, layer: int | None, precision: Precision) -> Key:
        example = self._example(name)
        prepared = [*example.shape, digest(example.tobytes())]
        return Key(
            model=library_model_name(self.adapter.name),
            weights=self.adapter.weight_hash,
            config={"structure": self.adapter.structure, "example": prepared, **self.adapter.versions},
            tower=name,
            precision=precision,
        )

    def source(self, name: Tower, layer: int | None) -> Source:
        adapter, example = self.adapter, self._example(name)
        if name == "image":
            assert adapter.image_shape is not None
            sized, (_, height, width) = adapter.of_one_size(), adapter.image_shape
            arguments: Mapping[str, object] = self.transform.pixels(Image.new("RGB", (width, height)))
            return Source(
                name,
                _OutputTower(sized.model, sized.image_output, arguments),
                example,
                (-1, *example.shape[1:]),
                lambda: self._pixels(check_images(height, width)),
                lambda: self._pixels(calibration_pixels(height, width)),
            )
        role = _role(name)
        others = [_tokens(adapter, texts, role) for texts in ([_SHORT], [_LONG], [_SHORT, _DOCUMENT])]
        padded = others[0].shape == others[1].shape
        shape = (-1, *example.shape[1:]) if padded else (-1, example.shape[1], -1)
        return Source(
            name,
            _OutputTower(adapter.model, partial(adapter.text_output, role=role), adapter.tokens([_SHORT], role)),
            example,
            shape,
            lambda: _tokens(adapter, check_captions(), role),
            lambda: [_tokens(adapter, [text], role)[0] for text in calibration_texts()],
            others,
        )

    def _pixels(self, images: np.ndarray) -> np.ndarray:
        found = [self.transform.pixels(Image.fromarray(image.transpose(1, 2, 0))) for image in images]
        return np.stack([np.stack(list(pixels.values())) for pixels in found])

    def _example(self, name: Tower) -> np.ndarray:
        """Return two inputs as the library prepares them; texts differ in length."""
        if name != "image":
            return _tokens(self.adapter, [_SHORT, _LONG], _role(name))
        assert self.adapter.image_shape is not None
        return self._pixels(example_pixels(2, *self.adapter.image_shape[1:]))


def _tokens(adapter: Adapter, texts: Sequence[str], role: Role) -> np.ndarray:
    return np.stack([values.numpy() for values in adapter.tokens(list(texts), role).values()], axis=1)


def _text_tower(adapter: Adapter, role: Role) -> Tower:
    return adapter.part(role) or "text"


def _role(name: Tower) -> Role:
    return name if name == "query" or name == "document" else None
