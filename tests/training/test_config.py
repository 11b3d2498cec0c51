"""What every stage's configuration has: least values, a fingerprint of what is chosen, and a debug form of its loop."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.models.initialization import torch_generator
from perception_encoder.records import check_minimums
from perception_encoder.training.config import TrainingConfig, debug_loop
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.task import ValidationConfig
from tests.training.toys import CONFIG, ToyConfig


@pytest.mark.parametrize(
    "setting",
    [{"batch_size": 0}, {"warmup": -1}, {"keep": 0}, {"log_every": 0}, {"checkpoint_every": 0}, {"seed": -1}],
)
def test_a_setting_below_its_least_value_is_named(setting: dict[str, int]) -> None:
    [(name, value)] = setting.items()
    with pytest.raises(ConfigError, match=f"{name} is {value}; it must be at least {value + 1}"):
        dataclasses.replace(CONFIG, **setting)


def test_a_setting_that_is_not_given_has_no_least_value() -> None:
    check_minimums(CONFIG, {"validation": 1, "steps": 30})
    with pytest.raises(ConfigError, match="steps is 30; it must be at least 31"):
        check_minimums(CONFIG, {"steps": 31})


def test_a_stage_must_have_steps() -> None:
    with pytest.raises(TypeError, match="steps"):
        TrainingConfig()


def test_the_fingerprint_is_of_what_is_not_by_default() -> None:
    """So a later version's new settings leave old runs what they are."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LaterConfig(ToyConfig):
        another: float = 0.5

    assert LaterConfig(seed=3).fingerprint(["a"]) == ToyConfig(seed=3).fingerprint(["a"])
    assert LaterConfig(seed=3, another=0.1).fingerprint(["a"]) != ToyConfig(seed=3).fingerprint(["a"])
    inner = ToyConfig(optimizer=OptimizerConfig(betas=(0.9, 0.95)))
    assert inner.fingerprint() == ToyConfig().fingerprint() != ToyConfig().fingerprint(["a"])


def test_the_debug_form_of_the_loop_reports_and_validates_often() -> None:
    small = debug_loop(dataclasses.replace(CONFIG, validation=ValidationConfig(every=50)))
    assert type(small) is ToyConfig and (small.log_every, small.checkpoint_every, small.validation.every) == (1, 2, 2)
    assert debug_loop(CONFIG).validation is None and small.optimizer == CONFIG.optimizer


def test_generators_depend_on_the_whole_key() -> None:
    draws = {tuple(torch.rand(3, generator=torch_generator(*key)).tolist()) for key in [(0, 1), (1, 0), (0,), (0, 2)]}
    assert len(draws) == 4


def test_a_seed_is_numpys_for_the_key_without_its_sign() -> None:
    """Else a run gives other weights than in an earlier version."""
    keys = [(0,), (3, 1), (3, 2, 7), (2, 9)]
    states = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) for key in keys]
    assert [torch_generator(*key).initial_seed() for key in keys] == [state % 2**63 for state in states]
    assert {state >> 63 for state in states} == {state % 2 for state in states} == {0, 1}
