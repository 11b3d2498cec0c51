"""`--set`: typed, validated, and never a silent no-op."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.recipes.builtin import builtin
from perception_encoder.recipes.override import override


def test_settings_are_changed_in_a_copy() -> None:
    config = builtin()
    changed = override(config, ["batch_size=64", "optimizer.lr=1e-3", "augmentation.scale=[0.5, 1]", "model = x"])
    assert (changed.batch_size, changed.optimizer.lr, changed.augmentation.scale) == (64, 1e-3, (0.5, 1.0))
    assert changed.model == "x"
    assert config == builtin()
    assert changed.fingerprint() != config.fingerprint()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("batchsize=64", "did you mean batch_size"),
        ("batch_size", "write name=value"),
        ("batch_size=many", "is no int"),
        ("batch_size=1.5", "is no int"),
        ("batch_size=true", "is no int"),
        ("optimizer.rate=1", "no setting is called rate"),
        ("optimizer=1", "is no OptimizerConfig"),
        ("batch_size.x=1", "has no settings"),
        ("augmentation.scale=[0.5]", "is no tuple"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(builtin(), [setting])
