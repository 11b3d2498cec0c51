"""What every stage's configuration has: ranges, a fingerprint of what is chosen, and a debug form of its loop."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

from perception_encoder.data.pairs import Stage
from perception_encoder.errors import ConfigError
from perception_encoder.models.initialization import torch_generator
from perception_encoder.records import Checked, Range
from perception_encoder.stages import all_stages, configure
from perception_encoder.training.config import TrainingConfig, debug_loop
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.task import ValidationConfig
from tests.training.toys import CONFIG, ToyConfig


@pytest.mark.parametrize(
    ("recipe", "setting", "message"),
    [
        ("finetune", "optimizer.weight_decay=-1", "optimizer.weight_decay is -1.0; it must be at least 0"),
        ("finetune", "optimizer.betas=[0.9,1]", "optimizer.betas[1] is 1.0; it must be at least 0 and below 1"),
        ("finetune", "lr=0", "optimizer.lr is 0.0; it must be above 0"),
        ("depth", "lr=-1", "optimizer.lr is -1.0; it must be above 0"),
        ("finetune", "lr=NaN", "optimizer.lr is nan; it must be above 0"),
        ("finetune", "checkpoint_minutes=Infinity", "checkpoint_minutes is inf; it must be at least 0"),
        ("finetune", "augmentation.flip=3", "augmentation.flip is 3.0; it must be from 0 to 1"),
        ("finetune", "balance=-1", "balance is -1.0; it must be from 0 to 1"),
        ("finetune", "lora.alpha=-1", "lora.alpha is -1; it must be at least 1"),
        ("finetune", "stages.0.steps=0", "stages.0.steps is 0; it must be at least 1"),
        ("finetune", 'weights={"a": -1}', "weights.a is -1.0; it must be at least 0"),
        ("distill_builtin", "contrastive_weight=-1", "contrastive_weight is -1.0; it must be at least 0"),
        ("distill_builtin", "teacher_logit_scale=-3", "teacher_logit_scale is -3.0; it must be above 0"),
        ("language_l14", "lora.alpha=-1", "lora.alpha is -1; it must be at least 1"),
        ("spatial_builtin", "temperature=0", "temperature is 0.0; it must be above 0"),
        ("depth", "per_metre=0", "per_metre is 0.0; it must be above 0"),
        ("detector", "head.least_score=2", "head.least_score is 2.0; it must be from 0 to 1"),
        ("finetune", "optimizer.name=adam", "optimizer.name is 'adam'; expected 'lamb' or 'adamw' or 'sgd'"),
    ],
)
def test_a_senseless_setting_is_named(recipe: str, setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^--set {re.escape(f'{setting}: {message}')}"):
        configure(recipe, [setting])


def all_configs() -> dict[str, type[Checked]]:
    """The configurations of all stages, and all groups within them."""
    found: dict[str, type[Checked]] = {}

    def visit(kind: Any) -> None:
        if dataclasses.is_dataclass(kind):
            found[kind.__name__] = kind
            for hint in get_type_hints(kind).values():
                visit(hint)
        for part in get_args(kind):
            visit(part)

    for stage in all_stages():
        for _, recipe in stage.recipes.values():
            visit(type(recipe()))
    return found


def numbers(hint: Any) -> list[tuple[Any, Range | None]]:
    """The types of the numbers in an annotation, and their ranges."""
    if get_origin(hint) is Annotated:
        [allowed] = [part for part in hint.__metadata__ if isinstance(part, Range)]
        return [(hint.__origin__, allowed)]
    if hint in (int, float):
        return [(hint, None)]
    return [] if get_origin(hint) is Literal else [item for part in get_args(hint) for item in numbers(part)]


FIELDS = [
    (kind, name, number, allowed)
    for kind in all_configs().values()
    for name, hint in get_type_hints(kind, include_extras=True).items()
    if get_origin(hint) is not ClassVar
    for number, allowed in dict.fromkeys(numbers(hint))
]


def example(kind: Any) -> Any:
    """A valid value of a type."""
    if dataclasses.is_dataclass(kind):
        required = {"steps": 1, "stages": (Stage(steps=9000),), "initial": "x"}
        names = {field.name: field for field in dataclasses.fields(kind)}
        needed = {name for name, f in names.items() if f.default is f.default_factory is dataclasses.MISSING}
        return kind(**{name: required[name] for name in needed | ({"initial"} & names.keys())})
    return kind


@pytest.mark.parametrize(
    ("kind", "name", "number", "allowed"), FIELDS, ids=[f"{kind.__name__}.{name}" for kind, name, *_ in FIELDS]
)
def test_every_number_of_every_stage_has_a_range(kind: Any, name: str, number: type, allowed: Range | None) -> None:
    assert allowed is not None
    hint = get_type_hints(kind)[name]
    valid = next(value for value in (1, 0, 3, 32, 0.5) if number(value) in allowed)
    for wrong in (-1001, 1001, 0, 1, -0.5, 1.5, math.nan, math.inf):
        if (number is int and not float(wrong).is_integer()) or wrong in allowed:
            continue
        origin = {part: get_origin(part) or part for part in (get_args(hint) or (hint,))}
        value, where = wrong, name
        if tuple in (get_origin(hint), *origin.values()):
            pair = get_args(hint)[1:] not in ((), (Ellipsis,))
            value, where = (valid, wrong) if pair else (wrong,), f"{name}[{int(pair)}]"
        elif get_origin(hint) is Mapping:
            value, where = {"x": wrong}, f"{name}.x"
        with pytest.raises(ConfigError, match=re.escape(f"{where} is {number(wrong)}; it must be {allowed}")):
            dataclasses.replace(example(kind), **{name: value})


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
