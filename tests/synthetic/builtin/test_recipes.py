"""The built-in model's recipes."""

from __future__ import annotations

import pytest

from synthetic.builtin.recipes import builtin


def test_the_builtin_recipe_is_complete() -> None:
    config = builtin()
    assert [stage.image_size for stage in config.stages] == [64, 96, 128]
    assert sum(config.weights.values()) == pytest.approx(1.0)
    assert "openmoji" not in config.weights
