"""The targets of the built-in model are for its results on `test` alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perception_encoder.evaluation.results import Result
from perception_encoder.models.registry import BUILTIN
from perception_encoder.pretraining.builtin.targets import TARGETS, targets_of

RESULT = Result(model=BUILTIN, split="test", measurements=(), failures=(), about={})


@pytest.mark.parametrize("change", [{"model": "PE-Core-B16-224"}, {"split": "val"}])
def test_targets_are_for_the_built_in_model_on_test(change: dict[str, str]) -> None:
    assert targets_of(RESULT) is TARGETS and targets_of(replace(RESULT, **change)) is None
