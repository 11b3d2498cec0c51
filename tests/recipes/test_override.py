"""`--set`: typed, validated, and never a silent no-op."""

from __future__ import annotations

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.pretraining.builtin.recipe import builtin, debug
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.recipes.override import override


def test_settings_are_changed_in_a_copy() -> None:
    config = builtin()
    changed = override(config, ["batch_size=64", "optimizer.lr=1e-3", "augmentation.scale=[0.5, 1]", "model = x"])
    assert (changed.batch_size, changed.optimizer.lr, changed.augmentation.scale) == (64, 1e-3, (0.5, 1.0))
    assert changed.model == "x"
    assert config == builtin()
    changed = override(config, ["stages.1.steps=7", "weights.flowers=0.5", "optimizer.plain_lr=null"])
    assert [stage.steps for stage in changed.stages] == [config.stages[0].steps, 7, config.stages[2].steps]
    assert changed.weights == {**config.weights, "flowers": 0.5} and changed.optimizer.plain_lr is None
    assert override(changed, ["optimizer.plain_lr=1"]).optimizer.plain_lr == 1.0
    assert changed.fingerprint() != config.fingerprint() != config.fingerprint(["one more sample"])


def test_a_mapping_is_replaced_as_a_whole() -> None:
    changed = override(builtin(), ['streams.captions={"alt_text": 1, "caption": 0.5}', "streams.bad_share=0"])
    assert changed.streams.captions == {"alt_text": 1.0, "caption": 0.5} and changed.streams.bad_share == 0.0


def test_what_is_off_is_turned_on_by_a_setting_of_it() -> None:
    assert builtin().masking is None
    assert override(builtin(), ["masking.ratio=0.7"]).masking == MaskRegularization(ratio=0.7)
    assert override(debug(), ["masking=null", "augmentation=null"]).masking is None


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
        ("stages.3.steps=1", "no setting is called 3; there are 0, 1, 2"),
        ("stages.0.step=1", "did you mean steps"),
        ("weights.flower=1", "did you mean flowers"),
        ("weights.flowers=much", "is no float"),
        ('streams.captions={"alt_text": "much"}', "is no float"),
        ("streams.captions={}", "a positive share to each"),
        ("streams.bad_share=2", "from 0 to 1"),
        ("optimizer.plain_lr=fast", "is no float or NoneType"),
        ("batch_size=null", "is no int"),
        ("checkpoint_every=0", "--set checkpoint_every=0: checkpoint_every is 0; it must be at least 1"),
        ("seed=-1", "must be at least 0"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        override(builtin(), [setting])
