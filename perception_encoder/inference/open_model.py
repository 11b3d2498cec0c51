"""Any model by its name: this package's, and those of timm, open_clip and transformers.

A name is `builtin`, an alias or a checkpoint's path of this package; `timm:NAME`; `open_clip:NAME,PRETRAINED`;
`hf:NAME` (transformers, a hub name or a directory); or `random:` before one of these: the same architecture with random
weights, a baseline for trained ones.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import torch

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.inference.layer_encoder import TowerEncoder
from perception_encoder.models.checkpoints.weights import create_model, load_model
from perception_encoder.models.external.external_model import ExternalModel, Mode
from perception_encoder.models.external.open_clip_models import OpenClipModel
from perception_encoder.models.external.timm_models import TimmModel
from perception_encoder.models.external.transformers_models import TransformersModel
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import canonical_name, shown_name
from perception_encoder.models.tower import OwnTower, Tower

RANDOM = "random:"
"""Before a model's name: the same architecture with random weights."""


class OwnModel:
    """A model of this package; its weights are loaded when they are first needed."""

    def __init__(self, source: str, random: bool = False) -> None:
        """`source`: as `load` takes it. `random`: random weights of seed 0; such a model is a tower alone."""
        self.source, self.random = source, random
        self.name = (RANDOM if random else "") + (shown_name(source) or Path(source).stem)

    @cached_property
    def _encoder(self) -> Encoder:
        return load(self.source)

    def encoder(self, mode: Mode) -> Encoder:
        """Its encoder under a transform; encoders share the weights. ConfigError for random weights."""
        if self.random:
            raise ConfigError(
                f"{RANDOM}{self.source} is only a vision tower, without texts; evaluate it by k-NN or a probe"
            )
        encoder = copy(self._encoder)
        encoder.transform = replace(encoder.transform, mode=mode)
        return encoder

    def tower(self) -> Tower:
        """Its vision tower."""
        if not self.random:
            return OwnTower.of(load_model(self.source))
        if canonical_name(self.source) is not None:
            return OwnTower.of(create_model(self.source))
        model = load_model(self.source)
        initialize(model, torch.Generator().manual_seed(0))
        return OwnTower.of(model)

    def about(self) -> dict[str, str]:
        """What its embeddings depend on, apart from inputs and transform."""
        encoder = self._encoder
        dtype = str(encoder.dtype).removeprefix("torch.")
        return {"weights": encoder.weight_hash, "dtype": dtype, "device": encoder.device.type}


def open_model(name: str | Path) -> OwnModel | ExternalModel:
    """A model of any library by its name; its `encoder` and `tower` load the weights."""
    plain = str(name).removeprefix(RANDOM)
    random = plain != str(name)
    library, _, listed = plain.partition(":")
    if library == TimmModel.library:
        return TimmModel(str(name), listed, random)
    if library == OpenClipModel.library:
        return OpenClipModel(str(name), listed, random)
    if library == TransformersModel.library:
        return TransformersModel(str(name), listed, random)
    return OwnModel(plain, random)


def load_layer_encoder(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    final_norm: bool = False,
) -> TowerEncoder:
    """Load the vision tower of a model of any library as a `LayerEncoder`.

    Raises UnknownModelError, CheckpointError and WeightsUnavailableError, ConfigError for a model that is not a plain
    vision transformer, and MissingExtraError if its library is not installed.
    """
    model = open_model(name)
    return TowerEncoder(model.name, model.tower(), device, dtype, final_norm)
