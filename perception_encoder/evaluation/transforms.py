"""Models as the evaluators take them: under both transforms, with what fixes their figures."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from perception_encoder import __version__
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.other_libraries import LIBRARIES, load_library
from perception_encoder.evaluation.protocol import ImageEncoder, ImageTextEncoder
from perception_encoder.inference.encoder import Encoder, load

TRANSFORMS = ("squash", "crop")


def load_transforms(name: str, transforms: str = "squash,crop") -> tuple[dict[str, ImageTextEncoder], dict[str, str]]:
    """Load a model under some transforms, and its `about`: weight hash, type, device, versions.

    `name`: as `load` takes it, or of another library (see `other_libraries`). `transforms`: "squash", "crop" or both
    with a comma; they share the weights. Errors as those of `load` and `load_library`, and ConfigError for another
    transform.
    """
    names = [each.strip() for each in transforms.split(",")]
    for each in names:
        if each not in TRANSFORMS:
            raise ConfigError(f"no transform is called {each!r}; there are {' and '.join(TRANSFORMS)}")
    about = {"perception-encoder": __version__, "torch": torch.__version__}
    if name.startswith(LIBRARIES):
        made, known = load_library(name)
        return {each: made[each] for each in names}, {**known, **about}
    squash = load(name)
    crop = copy(squash)
    crop.transform = replace(squash.transform, mode="crop")
    dtype = str(squash.dtype).removeprefix("torch.")
    known = {"weights": squash.weight_hash, "dtype": dtype, "device": squash.device.type}
    both = {"squash": squash, "crop": crop}
    return {each: both[each] for each in names}, {**known, **about}


class LayerView:
    """Vectors of an earlier layer of this package's model, or pooled another way."""

    def __init__(self, encoder: Encoder, layer: int | None, pool: str | None) -> None:
        """`layer`, `pool`: see `Encoder.feature`, whose ConfigError is raised for what the model does not have."""
        self.encoder, self.feature = encoder, encoder.feature(layer, pool)
        self.name = encoder.name

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors (B, D), float32, in the pictures' order."""
        return self.encoder.encode_images(images, layer=self.feature.layer, pool=self.feature.pool)


def load_views(
    name: str, transforms: str, layer: int | None, pool: str | None
) -> tuple[dict[str, ImageEncoder], dict[str, str]]:
    """`load_transforms` for pictures only, at a layer; as the model is where neither layer nor pooling is given.

    Raises ConfigError for a layer or pooling that the model does not have, and for a model of another library.
    """
    encoders, about = load_transforms(name, transforms)
    if layer is None and pool is None:
        return {**encoders}, about
    views: dict[str, ImageEncoder] = {}
    for transform, encoder in encoders.items():
        if not isinstance(encoder, Encoder):
            raise ConfigError(f"{name} is of another library; only this package's models are taken at a layer")
        view = views[transform] = LayerView(encoder, layer, pool)
        about = {**about, "layer": str(view.feature.layer), "pool": view.feature.pool}
    return views, about
