"""The layers of a vision transformer of any library, in torch: tokens, and attention.

Tokens are as their block leaves them, the last layer's too, as in the reference's `forward_features`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.overrides import TorchFunctionMode

from perception_encoder.errors import ConfigError, DataError, ModelError
from perception_encoder.models.external import Adapter, Role
from perception_encoder.models.libraries import load_tower
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.registry import RANDOM, library_model_name, shown_name
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.runtime.torch_towers import CACHED_ACTIVATIONS, TorchThreads, pooled
from perception_encoder.runtime.towers import Towers
from perception_encoder.transfer import to_device


@dataclass(frozen=True)
class LayerTokens:
    """Tokens of images after one block of a vision transformer."""

    prefix: Float[np.ndarray, "B P D"]
    """float32: class and register tokens; P is 0 if the model has none."""
    patches: Float[np.ndarray, "B h w D"]
    """float32."""


class LayerTowers(Towers):
    """A vision tower without its own output: the tokens of its layers, or pooled ones as an image's embedding."""

    has_output = False
    modes = ("squash",)

    def __init__(
        self,
        source: str,
        tower: Tower,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        final_norm: bool = False,
    ) -> None:
        """Move the tower to a device and a type.

        Args:
            source: The name that it was loaded by.
            device, dtype: See `LayerFeatures.load`.
            final_norm: Apply the model's final norm to the last layer.
        """
        self.source, self.name = source, library_model_name(source)
        self.tower, self.model, self.final_norm = tower, tower.model, final_norm
        self.depth, self.width, self.has_class_token = tower.depth, tower.width, tower.class_token
        self.weight_hash, self.output_width = tower.weight_hash, tower.width
        self.patch_size: int = tower.patch_size
        self.image_size, self.fixed_size = tower.image_size, tower.fixed_size
        self.device = choose_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        tower.model.to(self.device, self.dtype).requires_grad_(False).train(False)
        self._mean, self._deviation = (
            torch.tensor(values, device=self.device)[:, None, None] for values in (tower.mean, tower.deviation)
        )
        self.runtime = TorchThreads(self.device, self.dtype, max(2, self.batch_size(self.image_size)))

    @classmethod
    def load(
        cls,
        name: str | Path,
        adapter: Adapter | None,
        device: str | torch.device | None,
        dtype: torch.dtype | None,
        final_norm: bool,
    ) -> Self:
        """Load the tower of a name, or of another library's adapter."""
        source = str(name).removeprefix(RANDOM)
        random = "" if source == str(name) else RANDOM
        shown = adapter.name if adapter else random + (shown_name(source) or Path(source).stem)
        return cls(shown, adapter.tower() if adapter else load_tower(name), device, dtype, final_norm)

    def transform(self, mode: str) -> ImageTransform:
        if mode != "squash":
            raise ConfigError(f"a layer of {self.name} takes squashed images only; transform is {mode!r}")
        return ImageTransform(self.image_size)

    def settings(self, layer: int | None = None) -> dict[str, str]:
        """Return everything but the images and their size that tokens depend on."""
        norm, dtype = "last layer" if self.final_norm else "none", self.runtime.precision
        return {"weights": self.weight_hash, "dtype": dtype, "device": self.device.type, "final norm": norm}

    @torch.inference_mode()
    def images(self, pixels: Sequence[Any] | np.ndarray, layer: int, pool: str, role: Role = None) -> np.ndarray:
        batch = torch.from_numpy(np.asarray(pixels))
        (tokens,) = self._run(self._scaled(batch), [layer])
        patches = batch.shape[-2] * batch.shape[-1] // self.patch_size**2  # after the prefix
        return pooled(tokens[:, :-patches], tokens[:, -patches:], pool)

    def tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, LayerTokens]:
        """Return the tokens of ascending layers: see `LayerFeatures.encode_layers`."""
        height, width = size
        h, w = height // self.patch_size, width // self.patch_size
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        for batch in self._batches(images, (height, width)):
            for layer, tokens in zip(parts, self._run(batch, list(parts)), strict=True):
                parts[layer].append(tokens.float().cpu().numpy())
        encoded = {}
        for layer in list(parts):
            arrays = parts.pop(layer)  # freed one by one: of a large model they are most of the memory
            values = np.concatenate(arrays) if arrays else np.empty((0, h * w, self.width), np.float32)
            prefix = values.shape[1] - h * w
            if prefix < 0:
                count = f"{values.shape[1]} tokens for {h}x{w} patches at layer {layer}"
                raise ConfigError(f"{self.source} gives {count}; it is not a plain vision transformer")
            encoded[layer] = LayerTokens(values[:, :prefix], values[:, prefix:].reshape(len(values), h, w, self.width))
        return encoded

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, Float[np.ndarray, "B N N"]]:
        """Return the attention weights of ascending layers: see `LayerFeatures.attention`."""
        if not images:
            raise DataError(f"{self.source}: no images were given, so there is no attention to show")
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
        for batch in self._batches(images, size):
            with _Watch(layers) as watch:
                self._run(batch, [max(layers)])
            if watch.calls not in (max(layers) + 1, self.depth):  # some run all layers in any case
                raise ModelError(f"{self.source} does not compute all attention with torch, so it cannot be shown")
            for layer in layers:
                parts[layer].append(watch.weights[layer].cpu().numpy())
        return {layer: np.concatenate(arrays) for layer, arrays in parts.items()}

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
        return ((to_device(pixels, self.device).float() / 255 - self._mean) / self._deviation).to(self.dtype)

    @torch.inference_mode()
    def _run(self, batch: Tensor, layers: list[int]) -> list[Tensor]:
        outputs = self.tower.run(batch, layers)
        if self.final_norm and layers[-1] == self.depth - 1:
            outputs[-1] = self.tower.norm(outputs[-1])
        finite = torch.stack([tokens.isfinite().all() for tokens in outputs]).tolist()  # waits once
        for layer, is_finite in zip(layers, finite, strict=True):
            if not is_finite:
                other = "" if self.dtype == torch.float32 else ", or need float32"
                where = f"in {self.runtime.precision} at layer {layer}"
                raise ModelError(f"{self.source} gives NaN or infinity {where}: its weights are bad{other}")
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
