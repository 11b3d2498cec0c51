"""Features of any layer of a vision transformer from any library, and its attention.

Tokens are as their block leaves them, the last layer's too, as in the reference's `forward_features`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from perception_encoder.errors import ConfigError, DataError, ModelError, ShapeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import resolve_layers
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.runtime.torch_runtime import CACHED_ACTIVATIONS


@dataclass(frozen=True)
class LayerTokens:
    """Tokens of images after one block of a vision transformer."""

    prefix: Float[np.ndarray, "B P D"]
    """float32: class and register tokens; P is 0 if the model has none."""
    patches: Float[np.ndarray, "B h w D"]
    """float32."""


class LayerFeatures:
    """A vision transformer of any library: images to the tokens and maps of its layers; `load_layers` loads one.

    Attributes: `name`, `depth` (number of layers), `layer` (the selected one, 0-based: see `at`), `patch_size`,
    `image_size` (default height and width that images are squashed to), `width` (of a token, D), `device`, `dtype`.

    Examples:
        >>> maps = pe.load_layers("PE-Spatial-B16-512").maps([Image.open("photo.jpg")])  # (1, h, w, D)
    """

    layer: int = -1

    def __init__(
        self,
        name: str,
        tower: Tower,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        final_norm: bool = False,
    ) -> None:
        """`device`: a CUDA GPU by default if there is one. `dtype`: bfloat16 by default if it is fast.

        `final_norm`: apply the model's final norm to the last layer.
        """
        self.name, self.tower, self.final_norm = name, tower, final_norm
        self.depth, self.patch_size = tower.depth, tower.patch_size
        self.image_size, self.width = tower.image_size, tower.width
        self.layer = self.depth - 1
        self.device = choose_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        tower.model.to(self.device, self.dtype).requires_grad_(False).train(False)

    def __repr__(self) -> str:
        size = "x".join(map(str, self.image_size))
        return f"LayerFeatures({self.name!r}, layers={self.depth}, layer={self.layer}, width={self.width}, size={size})"

    @classmethod
    def of(cls, encoder: Encoder, final_norm: bool = False) -> LayerFeatures:
        """Return the layers of an encoder's vision tower; the weights are shared if torch executes both."""
        shared = encoder.runtime.name == "torch"
        visual = encoder.visual if shared else copy.deepcopy(encoder.visual)  # its type may change
        tower = Tower.of(visual, encoder.weight_hash)
        return cls(encoder.name, tower, encoder.device, encoder.dtype if shared else None, final_norm)

    def at(self, layer: int) -> LayerFeatures:
        """Return the same model at another layer, negative from the end; ConfigError if the layer does not exist."""
        selected = copy.copy(self)
        (selected.layer,) = self.resolve_layers([layer])
        return selected

    def resolve_layers(self, layers: Sequence[int] | None) -> list[int]:
        """Return layers 0-based and ascending (negative from the end, None: all); ConfigError if one does not exist."""
        return resolve_layers(layers, self.depth, self.name)

    @property
    def about(self) -> dict[str, str]:
        """Everything but the images and their size that features depend on: weight hash, dtype, device, final norm."""
        dtype = str(self.dtype).removeprefix("torch.")
        norm = "last layer" if self.final_norm else "none"
        return {"weights": self.tower.weight_hash, "dtype": dtype, "device": self.device.type, "final norm": norm}

    def maps(
        self, images: Sequence[Image.Image], image_size: tuple[int, int] | None = None
    ) -> Float[np.ndarray, "B h w D"]:
        """Return the patch tokens of the selected layer, float32."""
        return self.encode_layers(images, [self.layer], image_size)[self.layer].patches

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Return the tokens of the given layers, in the order of the images.

        Args:
            images: Images of any size.
            layers: 0-based, or negative from the end.
            image_size: Height and width that images are squashed to, multiples of the patch; by default the model's.

        Raises:
            ConfigError: A layer does not exist.
            ModelError: A token is not finite.
        """
        height, width = self.check_size(image_size)
        h, w = height // self.patch_size, width // self.patch_size
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in self.resolve_layers(layers)}
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

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, Float[np.ndarray, "B N N"]]:
        """Return each layer's attention weights, float32, averaged over heads; each token's row sums to 1.

        Tokens are in the model's order, prefix first. The arguments are those of `encode_layers`.

        Raises:
            ModelError: The model does not attend through torch's `scaled_dot_product_attention`.
            DataError: There are no images.
        """
        if not images:
            raise DataError(f"{self.name}: no images were given, so there is no attention to show")
        size, indices = self.check_size(image_size), self.resolve_layers(layers)
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in indices}
        for batch in self._batches(images, size):
            with _Watch(indices) as watch:
                self._run(batch, [max(indices)])
            if watch.calls not in (max(indices) + 1, self.depth):  # some run all layers in any case
                raise ModelError(f"{self.name} does not compute all attention with torch, so it cannot be shown")
            for layer in indices:
                parts[layer].append(watch.weights[layer].cpu().numpy())
        return {layer: np.concatenate(arrays) for layer, arrays in parts.items()}

    def check_size(self, image_size: tuple[int, int] | None) -> tuple[int, int]:
        """Return the given or default size; ShapeError unless a multiple of the patch, ConfigError for a fixed size."""
        size, patch = image_size or self.image_size, self.patch_size
        if any(side < patch or side % patch for side in size):
            raise ShapeError(f"image size {size[0]}x{size[1]} is not a multiple of the patch size {patch}; change it")
        if self.tower.fixed_size and size != self.image_size:
            height, width = self.image_size
            raise ConfigError(f"{self.name} takes images of {height}x{width} only, not {size[0]}x{size[1]}")
        return size

    def batch_size(self, size: tuple[int, int]) -> int:
        """Return how many images of a size (height, width) to compute together: on a CPU, as many as fit the cache."""
        tokens = size[0] * size[1] // self.patch_size**2
        return max(1, CACHED_ACTIVATIONS // (tokens * self.width)) if self.device.type == "cpu" else 64

    def _batches(self, images: Sequence[Image.Image], size: tuple[int, int]) -> Iterator[Tensor]:
        transform, count = ImageTransform(size), self.batch_size(size)
        for start in range(0, len(images), count):
            pixels = np.stack([transform.pixels(image) for image in images[start : start + count]])
            yield self._scaled(torch.from_numpy(pixels))

    def _scaled(self, pixels: Tensor) -> Tensor:
        mean, deviation = (
            torch.tensor(values, device=self.device)[:, None, None]
            for values in (self.tower.mean, self.tower.deviation)
        )
        return ((pixels.to(self.device).float() / 255 - mean) / deviation).to(self.dtype)

    def split_tokens(self, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """Return prefix (B, P, D) and patch tokens (B, N, D) of a layer for pixels (B, 3, H, W), uint8."""
        (tokens,) = self._run(self._scaled(pixels), [layer])
        patches = pixels.shape[-2] * pixels.shape[-1] // self.patch_size**2
        return tokens[:, :-patches], tokens[:, -patches:]

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
    """Records the attention weights of some layers, through the one torch function that all libraries call."""

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
    """Return attention weights (B, heads, N, N) from a call's queries and keys, scale and mask."""
    scale = q.shape[-1] ** -0.5 if arguments.get("scale") is None else arguments["scale"]
    scores = q.float() @ k.float().transpose(-1, -2) * scale
    mask = arguments.get("attn_mask")
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)
