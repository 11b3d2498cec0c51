"""Configurations count their parameters and refuse values that no text tower can have."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.vision_transformer import VisionTransformer
from tests.models.small import KINDS, TEXT


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_parameters_are_those_of_the_tower(config: VisionConfig) -> None:
    with torch.device("meta"):
        tower = VisionTransformer(config)
    assert config.parameters == sum(parameter.numel() for parameter in tower.parameters())
    assert config.pools == (config.output_dim is not None) and config.grid == 4


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocabulary": 0}, "vocabulary is 0; it must be from 1 to 1048576"),
        ({"heads": 5}, "heads is 5; it must divide width, 32"),
        ({"depth": 2.0}, r"depth is 2\.0; expected an integer"),
    ],
)
def test_a_text_tower_that_cannot_be(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        TextConfig(**{**dataclasses.asdict(TEXT), **changes})
