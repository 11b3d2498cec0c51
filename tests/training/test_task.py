"""What every stage brings to the loop."""

from __future__ import annotations

import inspect

import pytest

from perception_encoder.pretraining.task import ContrastiveTask, DistillationTask
from perception_encoder.pretraining.validation import PairValidation
from perception_encoder.training.task import Task, Validation


@pytest.mark.parametrize(
    ("protocol", "stage"),
    [(Task, ContrastiveTask), (Task, DistillationTask), (Validation, PairValidation)],
)
def test_a_stage_s_methods_take_what_the_loop_gives(protocol: type, stage: type) -> None:
    methods = [name for name, each in vars(protocol).items() if inspect.isfunction(each) and name != "__init__"]
    assert methods
    for name in methods:
        if name in ("_no_init_or_replace_init", "__subclasshook__"):
            continue
        of_protocol, of_stage = (inspect.signature(getattr(each, name)).parameters for each in (protocol, stage))
        assert list(of_protocol) == list(of_stage), name
