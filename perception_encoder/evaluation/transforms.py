"""Models for evaluators: under both transforms, with everything that fixes their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
from PIL import Image

from perception_encoder import __version__
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_encoder import TowerEncoder, resolve_layers
from perception_encoder.inference.open_model import RANDOM, load_layer_encoder, open_model
from perception_encoder.models.external.external_model import Mode
from perception_encoder.models.protocols import ImageEncoder, ImageTextEncoder
from perception_encoder.vectors import unit_rows

TRANSFORMS = ("squash", "crop")
TOWERS = ("hf:", RANDOM)
"""Prefixes of the names of models that are only vision towers: see `open_model`."""
CHUNK = 32
"""Images whose tokens are in memory at a time."""


def load_transforms(name: str, transforms: str = "squash,crop") -> tuple[dict[str, ImageTextEncoder], dict[str, str]]:
    """Load a model under some transforms, and its `about`: weight hash, type, device, versions.

    `name`: see `open_model`. `transforms`: "squash", "crop" or both with a comma; they share the weights. Raises what
    loading the model raises, and ConfigError for another transform and for a model that is only a vision tower.
    """
    modes = _check_transforms(transforms)
    model = open_model(name)
    encoders: dict[str, ImageTextEncoder] = {mode: model.encoder(mode) for mode in modes}
    return encoders, {**model.about(), **_versions()}


def _check_transforms(transforms: str) -> list[Mode]:
    names = [each.strip() for each in transforms.split(",")]
    for each in names:
        if each not in TRANSFORMS:
            raise ConfigError(f"no transform is called {each!r}; there are {' and '.join(TRANSFORMS)}")
    return cast(list[Mode], names)


def _versions() -> dict[str, str]:
    return {"perception-encoder": __version__, "torch": torch.__version__}


class LayerView:
    """Embeddings of an earlier layer of this package's model, or pooled another way."""

    def __init__(self, encoder: Encoder, layer: int | None, pool: str | None) -> None:
        """`layer`, `pool`: see `Encoder.feature`, whose ConfigError is raised if the model lacks them."""
        self.encoder, self.feature = encoder, encoder.feature(layer, pool)
        self.name = encoder.name

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Return embeddings (B, D), float32, in the images' order."""
        return self.encoder.encode_images(images, normalize, layer=self.feature.layer, pool=self.feature.pool)


class TowerView:
    """Embeddings of one layer of a tower of any library: the mean of its patches, or the class token.

    The last layer goes through the model's final norm if `load_views` made it, as `pe embed` does.
    """

    def __init__(self, encoder: TowerEncoder, layer: int | None = None, pool: str | None = None) -> None:
        """`layer`: the last by default; `pool`: "mean", the default, or "cls". ConfigError for others."""
        self.encoder, self.name = encoder, encoder.name
        (self.layer,) = resolve_layers(encoder, [-1 if layer is None else layer])
        self.pool = pool or "mean"
        if self.pool not in ("mean", "cls"):
            raise ConfigError(f"pool is {pool!r}; for a layer of {self.name} it must be mean or cls")
        if self.pool == "cls" and not encoder.tower.class_token:
            raise ConfigError(f"{self.name} has no class token; set the pool to mean")

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Return embeddings (B, D), float32, in the images' order."""
        vectors = np.concatenate([self._encode(images[n : n + CHUNK]) for n in range(0, len(images), CHUNK)])
        return unit_rows(vectors) if normalize else vectors

    def _encode(self, images: Sequence[Image.Image]) -> np.ndarray:
        tokens = self.encoder.encode_layers(images, [self.layer])[self.layer]
        return tokens.prefix[:, 0] if self.pool == "cls" else tokens.patches.mean(axis=(1, 2))


def load_views(
    name: str, transforms: str, layer: int | None, pool: str | None
) -> tuple[dict[str, ImageEncoder], dict[str, str]]:
    """`load_transforms` for images only, at a layer; the model's own embedding if neither layer nor pooling is given.

    `hf:` and `random:` are always read at a layer, the last by default, and `timm:` if layer or pooling is given;
    under "squash" only. Raises ConfigError for a layer or pooling that the model does not have, and for one of
    open_clip.
    """
    at_layer = layer is not None or pool is not None
    if name.startswith(TOWERS) or (at_layer and name.startswith("timm:")):
        if _check_transforms(transforms) != ["squash"]:
            raise ConfigError(f"a layer of {name} is evaluated under squash only, not {transforms}")
        tower = TowerView(load_layer_encoder(name, final_norm=True), layer, pool)
        at = {"layer": str(tower.layer), "pool": tower.pool}
        return {"squash": tower}, {**tower.encoder.about, **_versions(), **at}
    encoders, about = load_transforms(name, transforms)
    if not at_layer:
        return {**encoders}, about
    views: dict[str, ImageEncoder] = {}
    for transform, encoder in encoders.items():
        if not isinstance(encoder, Encoder):
            raise ConfigError(f"{name} cannot be read at a layer; this package's models, timm: and hf: can")
        view = views[transform] = LayerView(encoder, layer, pool)
        about = {**about, "layer": str(view.feature.layer), "pool": view.feature.pool}
    return views, about
