"""Dataclasses out of JSON: what was written comes back, and anything else is an error that names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.records import from_fields


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: tuple[int, int] = (1, 2)
    kind: Literal["a", "b"] = "a"

    def __post_init__(self) -> None:
        if self.size[0] > 9:
            raise ConfigError(f"size is {self.size}; at most 9")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    score: float | None = None
    inner: Inner = Inner()
    names: tuple[str, ...] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    anything: Any = None
    flag: bool = False
    either: Inner | int | str = 3


def test_what_was_written_comes_back() -> None:
    value = Outer(
        name="x", score=1.0, inner=Inner(size=(3, 4), kind="b"), names=("p", "q"), counts={"a": 1}, either="x"
    )
    assert from_fields(Outer, json.loads(json.dumps(asdict(value)))) == value
    assert from_fields(Outer, {"name": "x", "score": 2}).score == 2.0
    assert from_fields(Outer, {"name": "x", "either": {"size": [5, 6]}}).either == Inner(size=(5, 6))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name is 3; expected a string"),
        ({"score": "1"}, "score is '1'; expected a number"),
        ({"score": True}, "score is True"),
        ({"inner": {"size": [1]}}, r"inner.size is \[1\]; expected a list of 2"),
        ({"inner": {"size": [1, 2.5]}}, r"inner.size\[1\] is 2.5; expected an integer"),
        ({"inner": {"size": [10**30, 2]}}, "expected an integer"),
        ({"inner": {"kind": "c"}}, "inner.kind is 'c'; expected 'a' or 'b'"),
        ({"inner": {"size": [10, 1]}}, r"inner: size is \(10, 1\); at most 9"),
        ({"names": "pq"}, "names is 'pq'; expected a list"),
        ({"counts": {"a": None}}, "counts.a is None; expected an integer"),
        ({"counts": [1]}, r"counts is \[1\]; expected an object"),
        ({"flag": 1}, "flag is 1; expected true or false"),
        ({"other": 1}, "other is unknown; known: name, score"),
    ],
)
def test_other_values_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_fields(Outer, {"name": "x", **change})


def test_missing_fields_and_other_types() -> None:
    with pytest.raises(ValueError, match="name is missing"):
        from_fields(Outer, {})
    with pytest.raises(ValueError, match="the content is 3; expected an object"):
        from_fields(Outer, 3)
