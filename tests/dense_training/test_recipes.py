"""Recipes of heads."""

from __future__ import annotations

import pytest

from perception_encoder.dense_training.config import DenseConfig
from perception_encoder.dense_training.recipes import debug_dense
from perception_encoder.models.registry import BUILTIN
from perception_encoder.recipes import find_recipe


@pytest.mark.parametrize("name", ["depth", "segmenter", "detector"])
def test_recipes_train_a_head_alone(name: str) -> None:
    config = find_recipe(name)
    assert isinstance(config, DenseConfig) and config.frozen and config.validation is not None
    small = debug_dense(config)
    assert type(small) is type(config) and (small.steps, small.encoder) == (4, BUILTIN)
