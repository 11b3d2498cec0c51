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
from perception_encoder.inference.layer_encoder import TowerEncoder
from perception_encoder.inference.open_model import RANDOM, load_layer_encoder, open_model
from perception_encoder.models.external.external_model import Mode
from perception_encoder.models.protocols import ImageEncoder, ImageTextEncoder

TRANSFORMS = ("squash", "crop")
TOWERS = ("hf:", RANDOM)
"""Prefixes of the names of models that are only vision towers: see `open_model`."""


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
    """Embeddings of one layer of a model, or pooled another way."""

    def __init__(self, encoder: Encoder | TowerEncoder, layer: int | None, pool: str | None) -> None:
        """`layer`, `pool`: see `Encoder.feature`, whose ConfigError is raised if the model lacks them."""
        self.encoder, self.feature = encoder, encoder.feature(layer, pool)
        self.name = encoder.name

    @property
    def about(self) -> dict[str, str]:
        """The layer and the pooling."""
        return {"layer": str(self.feature.layer), "pool": self.feature.pool}

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Return embeddings (B, D), float32, in the images' order."""
        return self.encoder.encode_images(images, normalize, layer=self.feature.layer, pool=self.feature.pool)


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
        tower = load_layer_encoder(name, final_norm=True)
        view = LayerView(tower, layer, pool)
        return {"squash": view}, {**tower.about, **_versions(), **view.about}
    encoders, about = load_transforms(name, transforms)
    if not at_layer:
        return {**encoders}, about
    views: dict[str, ImageEncoder] = {}
    for transform, encoder in encoders.items():
        if not isinstance(encoder, Encoder):
            raise ConfigError(f"{name} cannot be read at a layer; this package's models, timm: and hf: can")
        view = views[transform] = LayerView(encoder, layer, pool)
        about = {**about, **view.about}
    return views, about
