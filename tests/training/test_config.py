"""Every number of every configuration has a range; the fingerprint is of the chosen settings."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytest

from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.errors import ConfigError
from perception_encoder.models.initialization import torch_generator
from perception_encoder.records import Checked, Range
from perception_encoder.stages import STAGES
from perception_encoder.training.optimizer import OptimizerConfig
from tests.training.toys import ToyConfig


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

    for stage in STAGES:
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
        required = {"steps": 1, "stages": (ResolutionStage(steps=9000),), "initial": "x"}
        names = {field.name: field for field in dataclasses.fields(kind)}
        needed = {name for name, f in names.items() if f.default is f.default_factory is dataclasses.MISSING}
        return kind(**{name: required[name] for name in needed | ({"initial"} & names.keys())})
    return kind


def test_every_number_of_every_stage_has_a_range() -> None:
    for kind, name, number, allowed in FIELDS:
        assert allowed is not None, f"{kind.__name__}.{name}"
        check_range(kind, name, number, allowed)


def check_range(kind: Any, name: str, number: type, allowed: Range) -> None:
    """Values outside a field's range are refused with its name and the range."""
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


def test_the_fingerprint_is_of_what_is_not_by_default() -> None:
    """So a later version's new settings leave old runs what they are."""

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class LaterConfig(ToyConfig):
        another: float = 0.5

    assert LaterConfig(seed=3).fingerprint(["a"]) == ToyConfig(seed=3).fingerprint(["a"])
    assert LaterConfig(seed=3, another=0.1).fingerprint(["a"]) != ToyConfig(seed=3).fingerprint(["a"])
    inner = ToyConfig(optimizer=OptimizerConfig(betas=(0.9, 0.95)))
    assert inner.fingerprint() == ToyConfig().fingerprint() != ToyConfig().fingerprint(["a"])


def test_a_seed_is_numpys_for_the_key_without_its_sign() -> None:
    """Else a run gives other weights than in an earlier version."""
    keys = [(0,), (3, 1), (3, 2, 7), (2, 9)]
    states = [int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) for key in keys]
    assert [torch_generator(*key).initial_seed() for key in keys] == [state % 2**63 for state in states]
    assert {state >> 63 for state in states} == {state % 2 for state in states} == {0, 1}
