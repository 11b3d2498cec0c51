"""Encoders whose layers are looked at: this package's models, and those of timm and transformers.

A name is `builtin`, an alias or a checkpoint of this package, also of a vision tower alone; `timm:NAME`; `hf:NAME`
(transformers, a hub name or a folder); or `random:` before any of these: the same architecture with random weights,
below which no trained layer should fall. Every model sees the same pixels, squashed bilinearly to the size asked for,
scaled by the mean and deviation of its own. A library's model becomes a `Tower`; all else is done here, once.

Tokens are as their block leaves them, the last layer's too, as the reference's `forward_features` gives them by default
and as published figures of layers need them; `final_norm` puts the last layer through the model's final norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from perception_encoder.errors import ConfigError, DataError, ModelError, ShapeError
from perception_encoder.evaluation.protocol import LayerEncoder, LayerTokens
from perception_encoder.models.checkpoints.weights import Model, create_model, load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.registry import canonical_name
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform

RANDOM = "random:"
_ACTIVATIONS = 640_000  # tokens x width of a batch that fits a CPU core's cache, as `Encoder` has it


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision transformer of any library, ready to be run."""

    model: nn.Module
    run: Callable[[Tensor, Sequence[int]], list[Tensor]]
    """Scaled pixels (B, 3, H, W) and ascending layers to each layer's tokens (B, P + h·w, D), prefix first, as its
    block leaves them."""
    norm: nn.Module
    """The final norm; it takes and gives tokens (B, N, D)."""
    depth: int
    patch_size: int
    image_size: tuple[int, int]
    width: int
    weight_hash: str
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    deviation: tuple[float, float, float] = (0.5, 0.5, 0.5)
    class_token: bool = False
    """Whether the first token is one."""
    fixed_size: bool = False
    """Whether it takes pictures of `image_size` only."""


class StoredEncoder(LayerEncoder, Protocol):
    """A LayerEncoder whose features can be kept, for it says what they depend on, and how large they are."""

    @property
    def width(self) -> int:
        """Of a token, at every layer."""
        ...

    @property
    def about(self) -> dict[str, str]:
        """Weight hash, floating-point type and device: what features depend on, pictures and their size apart."""
        ...


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
        """`device`: by default a CUDA GPU where there is one. `dtype`: by default bfloat16 where it is fast.

        `final_norm`: whether the last layer goes through the model's final norm.
        """
        self.name, self.tower, self.final_norm = name, tower, final_norm
        self.device = choose_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        tower.model.to(self.device, self.dtype).requires_grad_(False).train(False)

    @property
    def depth(self) -> int:
        """How many blocks there are."""
        return self.tower.depth

    @property
    def patch_size(self) -> int:
        """Pixels along a patch's side."""
        return self.tower.patch_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width it was trained at."""
        return self.tower.image_size

    @property
    def width(self) -> int:
        """Of a token, at every layer."""
        return self.tower.width

    @property
    def about(self) -> dict[str, str]:
        """What its features depend on, apart from the pictures."""
        dtype = str(self.dtype).removeprefix("torch.")
        norm = "last layer" if self.final_norm else "none"
        return {"weights": self.tower.weight_hash, "dtype": dtype, "device": self.device.type, "final norm": norm}

    def encode_layers(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, LayerTokens]:
        """Each asked layer's tokens: see `LayerEncoder`."""
        height, width = self.check_size(image_size)
        h, w = height // self.patch_size, width // self.patch_size
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in self.check_layers(layers)}
        for batch in self._batches(images, (height, width)):
            for layer, tokens in zip(parts, self._run(batch, list(parts)), strict=True):
                parts[layer].append(tokens.float().cpu().numpy())
        found = {}
        for layer in list(parts):
            arrays = parts.pop(layer)  # freed one by one: of a large model they are most of the memory
            joined = np.concatenate(arrays) if arrays else np.empty((0, h * w, self.tower.width), np.float32)
            prefix = joined.shape[1] - h * w
            if prefix < 0:
                count = f"{joined.shape[1]} tokens for {h}x{w} patches at layer {layer}"
                raise ConfigError(f"{self.name} gives {count}; its layers are no plain vision transformer's")
            found[layer] = LayerTokens(
                joined[:, :prefix], joined[:, prefix:].reshape(len(joined), h, w, self.tower.width)
            )
        return found

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], image_size: tuple[int, int] | None = None
    ) -> dict[int, Float[np.ndarray, "B N N"]]:
        """Each asked layer's attention, float32, the mean of its heads: a row is where a token looks, and sums to 1.

        Tokens are in the model's order, prefix first.

        Raises ModelError for a model that does not attend through torch's `scaled_dot_product_attention`, and DataError
        where there are no pictures.
        """
        if not images:
            raise DataError(f"{self.name}: there are no pictures whose attention could be seen")
        size, wanted = self.check_size(image_size), self.check_layers(layers)
        parts: dict[int, list[np.ndarray]] = {layer: [] for layer in wanted}
        for batch in self._batches(images, size):
            with _Watch(wanted) as watch:
                self._run(batch, [max(wanted)])
            if watch.calls not in (max(wanted) + 1, self.depth):  # some run all layers whatever is asked
                raise ModelError(f"{self.name} does not attend through torch in every layer, so it cannot be seen")
            for layer in wanted:
                parts[layer].append(watch.seen[layer].cpu().numpy())
        return {layer: np.concatenate(arrays) for layer, arrays in parts.items()}

    def check_layers(self, layers: Sequence[int]) -> list[int]:
        """The layers, each once, ascending; ConfigError where one does not exist."""
        for layer in layers:
            if not 0 <= layer < self.depth:
                raise ConfigError(f"layer {layer} does not exist; {self.name} has layers 0 to {self.depth - 1}")
        if not layers:
            raise ConfigError(f"no layer was asked for; {self.name} has layers 0 to {self.depth - 1}")
        return sorted(set(layers))

    def check_size(self, asked: tuple[int, int] | None) -> tuple[int, int]:
        """The size asked for, or its own; ShapeError for no multiple of the patch, ConfigError where it is fixed."""
        size, patch = asked or self.image_size, self.patch_size
        if any(side < patch or side % patch for side in size):
            raise ShapeError(f"picture size {size[0]}x{size[1]} is not a multiple of the patch size {patch}; change it")
        if self.tower.fixed_size and size != self.image_size:
            own = "x".join(map(str, self.image_size))
            raise ConfigError(f"{self.name} takes pictures of {own} only, not {size[0]}x{size[1]}")
        return size

    def _batches(self, images: Sequence[Image.Image], size: tuple[int, int]) -> Iterator[Tensor]:
        tokens = size[0] * size[1] // self.patch_size**2
        count = max(1, _ACTIVATIONS // (tokens * self.tower.width)) if self.device.type == "cpu" else 64
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
        found = self.tower.run(batch, layers)
        if self.final_norm and layers[-1] == self.depth - 1:
            found[-1] = self.tower.norm(found[-1])
        for layer, tokens in zip(layers, found, strict=True):
            if not bool(tokens.isfinite().all()):
                dtype = str(self.dtype).removeprefix("torch.")
                raise ModelError(
                    f"{self.name} gives NaN or infinity in {dtype} at layer {layer}: its weights are bad"
                    + ("" if dtype == "float32" else ", or need float32")
                )
        return found


class _Watch(TorchFunctionMode):
    """Sees the attention weights of some layers, in whatever library: all of them call one function of torch."""

    def __init__(self, layers: Sequence[int]) -> None:
        super().__init__()
        self.layers, self.calls = frozenset(layers), 0
        self.seen: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            if self.calls in self.layers:
                self.seen[self.calls] = _weights(args[0], args[1], named).mean(dim=1)
            self.calls += 1
        return func(*args, **named)


def _weights(q: Tensor, k: Tensor, named: dict[str, Any]) -> Tensor:
    """Attention weights (B, heads, N, N) of a call's queries and keys, with its scale and mask."""
    scale = q.shape[-1] ** -0.5 if named.get("scale") is None else named["scale"]
    scores = q.float() @ k.float().transpose(-1, -2) * scale
    mask = named.get("attn_mask")
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(dim=-1)


def resolve_layers(encoder: LayerEncoder, layers: Sequence[int] | None) -> list[int]:
    """Layers, negative from the end or None for all, as 0-based numbers, ascending; ConfigError where one is none."""
    depth = encoder.depth
    for layer in layers or ():
        if not -depth <= layer < depth:
            raise ConfigError(f"layer {layer} does not exist; {encoder.name} has layers 0 to {depth - 1}")
    return list(range(depth)) if layers is None else sorted({layer % depth for layer in layers})


def load_layer_encoder(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    final_norm: bool = False,
) -> TowerEncoder:
    """Load an encoder by its name: see the module.

    Raises UnknownModelError, CheckpointError and WeightsUnavailableError, ConfigError for a model that is no plain
    vision transformer, and MissingExtraError where its library is not installed.
    """
    given = str(name)
    random, plain = given.startswith(RANDOM), given.removeprefix(RANDOM)
    library, _, listed = plain.partition(":")
    if library == "timm":
        from perception_encoder.models.external.timm_tower import timm_tower

        tower, shown = timm_tower(listed, random), given
    elif library == "hf":
        from perception_encoder.models.external.transformers_tower import transformers_tower

        tower, shown = transformers_tower(listed, random), given
    else:
        canonical = canonical_name(plain)
        shown = (RANDOM if random else "") + (canonical or Path(plain).stem)
        tower = own_tower(_own_model(plain, random))
    return TowerEncoder(shown, tower, device, dtype, final_norm)


def _own_model(name: str, random: bool) -> Model:
    if random and canonical_name(name) is not None:
        return create_model(name)
    model = load_model(name)
    if random:
        initialize(model, torch.Generator().manual_seed(0))
    return model


def own_tower(model: Model) -> Tower:
    """The vision tower of this package's model; the model itself is used, not a copy."""
    visual = model.visual if isinstance(model, CLIP) else model
    config = visual.config
    return Tower(
        model=visual,
        run=partial(_run_own, visual),
        norm=visual.ln_post,
        depth=config.depth,
        patch_size=config.patch_size,
        image_size=(config.image_size, config.image_size),
        width=config.width,
        weight_hash=weight_hash(model),
        class_token=config.class_token,
    )


def _run_own(visual: VisionTransformer, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
    pairs = visual.forward_intermediates(
        pixels,
        list(layers),
        return_prefix_tokens=True,
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return [torch.cat([prefix, patches], dim=1) for patches, prefix in cast(list[tuple[Tensor, Tensor]], pairs)]
