"""The tokens of the layers of any library's vision transformer, and its attention.

Every model gets the same pixels, squashed bilinearly to one size and scaled by the model's own mean and deviation.
Tokens are as their block leaves them, the last layer's too, as the reference's `forward_features` gives them by default
and as published scores of layers need them; `final_norm` puts the last layer through the model's final norm.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from perception_encoder.errors import ConfigError, DataError, ModelError, ShapeError
from perception_encoder.inference.embedder import CACHED_ACTIVATIONS, Embedder, Feature
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.protocols import LayerEncoder, LayerTokens
from perception_encoder.models.tower import OwnTower, Tower
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.vectors import unit_rows

CHUNK = 32
"""Images whose tokens are in memory at a time, if only their embeddings are returned."""


class TowerEncoder:
    """A `LayerEncoder` of a tower."""

    def __init__(
        self,
        name: str,
        tower: Tower,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        final_norm: bool = False,
    ) -> None:
        """`device`: by default a CUDA GPU if there is one. `dtype`: by default bfloat16 if it is fast.

        `final_norm`: whether the last layer goes through the model's final norm.
        """
        self.name, self.tower, self.final_norm = name, tower, final_norm
        self.depth, self.patch_size = tower.depth, tower.patch_size
        self.image_size, self.width = tower.image_size, tower.width
        self.device = choose_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        tower.model.to(self.device, self.dtype).requires_grad_(False).train(False)

    @classmethod
    def of(cls, encoder: Embedder, final_norm: bool = False) -> TowerEncoder:
        """The layers of an encoder's vision tower, which both use."""
        tower = OwnTower.of(encoder.model, encoder.weight_hash)
        return cls(encoder.name, tower, encoder.device, encoder.dtype, final_norm)

    @property
    def about(self) -> dict[str, str]:
        """What its features depend on, apart from the images."""
        dtype = str(self.dtype).removeprefix("torch.")
        norm = "last layer" if self.final_norm else "none"
        return {"weights": self.tower.weight_hash, "dtype": dtype, "device": self.device.type, "final norm": norm}

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Each layer's tokens: see `LayerEncoder`."""
        height, width = self.check_size(image_size)
        h, w = height // self.patch_size, width // self.patch_size
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in self.check_layers(layers)}
        for batch in self._batches(images, (height, width)):
            for layer, tokens in zip(parts, self._run(batch, list(parts)), strict=True):
                parts[layer].append(tokens.float().cpu().numpy())
        encoded = {}
        for layer in list(parts):
            arrays = parts.pop(layer)  # freed one by one: of a large model they are most of the memory
            values = np.concatenate(arrays) if arrays else np.empty((0, h * w, self.tower.width), np.float32)
            prefix = values.shape[1] - h * w
            if prefix < 0:
                count = f"{values.shape[1]} tokens for {h}x{w} patches at layer {layer}"
                raise ConfigError(f"{self.name} gives {count}; it is not a plain vision transformer")
            encoded[layer] = LayerTokens(
                values[:, :prefix], values[:, prefix:].reshape(len(values), h, w, self.tower.width)
            )
        return encoded

    def feature(self, layer: int | None = None, pool: str | None = None) -> Feature:
        """Return an embedding with its defaults: the last layer, and "mean" of its patches, not "cls", the class token.

        Raises ConfigError for a layer or a pooling that the model lacks.
        """
        (number,) = resolve_layers(self, [-1 if layer is None else layer])
        if pool not in (None, "mean", "cls"):
            raise ConfigError(f"pool is {pool!r}; for a layer of {self.name} it must be mean or cls")
        if pool == "cls" and not self.tower.class_token:
            raise ConfigError(f"{self.name} has no class token; set the pool to mean")
        return Feature(layer=number, pool=pool or "mean")

    def encode_images(
        self, images: Sequence[Image.Image], normalize: bool = True, layer: int | None = None, pool: str | None = None
    ) -> np.ndarray:
        """Return embeddings (B, D) of a layer, float32, in the images' order; `layer`, `pool`: see `feature`."""
        feature, parts = self.feature(layer, pool), []
        for start in range(0, len(images), CHUNK):
            tokens = self.encode_layers(images[start : start + CHUNK], [feature.layer])[feature.layer]
            parts.append(tokens.prefix[:, 0] if feature.pool == "cls" else tokens.patches.mean(axis=(1, 2)))
        vectors = np.concatenate(parts)
        return unit_rows(vectors) if normalize else vectors

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, Float[np.ndarray, "B N N"]]:
        """Each layer's attention weights, float32, the mean of its heads; a token's row sums to 1.

        Tokens are in the model's order, prefix first. Raises ModelError for a model that does not attend through
        torch's `scaled_dot_product_attention`, and DataError without images.
        """
        if not images:
            raise DataError(f"{self.name}: no images were given, so there is no attention to show")
        size, indices = self.check_size(image_size), self.check_layers(layers)
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in indices}
        for batch in self._batches(images, size):
            with _Watch(indices) as watch:
                self._run(batch, [max(indices)])
            if watch.calls not in (max(indices) + 1, self.depth):  # some run all layers in any case
                raise ModelError(f"{self.name} does not attend through torch in every layer, so it cannot be seen")
            for layer in indices:
                parts[layer].append(watch.weights[layer].cpu().numpy())
        return {layer: np.concatenate(arrays) for layer, arrays in parts.items()}

    def check_layers(self, layers: Sequence[int]) -> list[int]:
        """The layers, each once, ascending; ConfigError if one does not exist."""
        for layer in layers:
            if not 0 <= layer < self.depth:
                raise ConfigError(f"layer {layer} does not exist; {self.name} has layers 0 to {self.depth - 1}")
        if not layers:
            raise ConfigError(f"no layer was given; {self.name} has layers 0 to {self.depth - 1}")
        return sorted(set(layers))

    def check_size(self, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """The given size or the default; ShapeError unless a multiple of the patch, ConfigError if it is fixed."""
        size, patch = image_size or self.image_size, self.patch_size
        if any(side < patch or side % patch for side in size):
            raise ShapeError(f"image size {size[0]}x{size[1]} is not a multiple of the patch size {patch}; change it")
        if self.tower.fixed_size and size != self.image_size:
            own = "x".join(map(str, self.image_size))
            raise ConfigError(f"{self.name} takes images of {own} only, not {size[0]}x{size[1]}")
        return size

    def _batches(self, images: Sequence[Image.Image], size: tuple[int, int]) -> Iterator[Tensor]:
        tokens = size[0] * size[1] // self.patch_size**2
        count = max(1, CACHED_ACTIVATIONS // (tokens * self.tower.width)) if self.device.type == "cpu" else 64
        transform = ImageTransform(size)
        mean, deviation = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.tower.mean, self.tower.deviation)
        )
        for start in range(0, len(images), count):
            pixels = torch.stack([transform.pixels(image) for image in images[start : start + count]])
            yield ((pixels.to(self.device).float() / 255 - mean) / deviation).to(self.dtype)

    @torch.inference_mode()
    def _run(self, batch: Tensor, layers: list[int]) -> list[Tensor]:
        outputs = self.tower.run(batch, layers)
        if self.final_norm and layers[-1] == self.depth - 1:
            outputs[-1] = self.tower.norm(outputs[-1])
        for layer, tokens in zip(layers, outputs, strict=True):
            if not bool(tokens.isfinite().all()):
                dtype = str(self.dtype).removeprefix("torch.")
                raise ModelError(
                    f"{self.name} gives NaN or infinity in {dtype} at layer {layer}: its weights are bad"
                    + ("" if dtype == "float32" else ", or need float32")
                )
        return outputs


class _Watch(TorchFunctionMode):
    """Records the attention weights of some layers of any library: all libraries call one function of torch."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers, self.calls = frozenset(layers), 0
        self.weights: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        arguments = kwargs or {}
        if func is F.scaled_dot_product_attention:
            if self.calls in self.layers:
                self.weights[self.calls] = _weights(args[0], args[1], arguments).mean(dim=1)
            self.calls += 1
        return func(*args, **arguments)


def _weights(q: Tensor, k: Tensor, arguments: dict[str, Any]) -> Tensor:
    """Attention weights (B, heads, N, N) of a call's queries and keys, with its scale and mask."""
    scale = q.shape[-1] ** -0.5 if arguments.get("scale") is None else arguments["scale"]
    scores = q.float() @ k.float().transpose(-1, -2) * scale
    mask = arguments.get("attn_mask")
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)


def resolve_layers(encoder: LayerEncoder, layers: Sequence[int] | None) -> list[int]:
    """Layers, negative from the end or None for all, 0-based and ascending; ConfigError if one does not exist."""
    depth = encoder.depth
    for layer in layers or ():
        if not -depth <= layer < depth:
            raise ConfigError(f"layer {layer} does not exist; {encoder.name} has layers 0 to {depth - 1}")
    return list(range(depth)) if layers is None else sorted({layer % depth for layer in layers})
