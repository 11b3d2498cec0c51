"""Dataclasses out of JSON: what was written comes back, and anything else is an error that names the field."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from rich.console import Console

from perception_encoder.errors import ClusterError, ConfigError, MissingExtraError, ShapeError
from perception_encoder.progress import Track, progress_bar, untracked
from perception_encoder.ranks import ALONE, Rank
from perception_encoder.ray_cluster import WorkCounter, check_cluster, last_line
from perception_encoder.records import from_fields
from perception_encoder.vectors import best_rows, unit_rows


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


def test_items_come_unchanged_and_one_by_one() -> None:
    track: Track = untracked
    items = iter(range(3))
    tracked = iter(track(items, "counting", 3))
    assert next(tracked) == 0 and next(items) == 1  # nothing is read ahead
    assert list(tracked) == [2]


@pytest.mark.parametrize(("terminal", "total", "count"), [(True, 5, "5/5"), (True, None, "5/?"), (False, 5, None)])
def test_the_bar_counts_items(terminal: bool, total: int | None, count: str | None) -> None:
    screen = io.StringIO()
    with progress_bar("reading", total, Console(file=screen, force_terminal=terminal, width=100)) as advance:
        advance(2)
        advance(3)
    text = re.sub(r"\x1b\[[\d;?]*\w", "", screen.getvalue())
    if count is None:
        assert text == ""
    else:
        assert re.search(rf"reading .* {re.escape(count)} +[\d.]+ items/s", text)


@pytest.mark.parametrize("count", [0, 1, 7, 12, 100])
@pytest.mark.parametrize("of", [1, 2, 3, 8])
def test_shares_cover_everything_once(count: int, of: int) -> None:
    items = list(range(count))
    parts = [items[Rank(rank=number, world_size=of).share(count)] for number in range(of)]
    assert [item for part in parts for item in part] == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert [items[share] for share in Rank(world_size=of).all_shares(count)] == parts


def test_alone_is_everything() -> None:
    assert ALONE.share(5) == slice(0, 5)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
def test_each_row_has_length_1_and_its_direction(shape: tuple[int, ...]) -> None:
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    unit = unit_rows(vectors)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=-1, keepdims=True), vectors, rtol=1e-5)


def test_zeros_stay_zeros() -> None:
    assert unit_rows(np.zeros((1, 3))).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize("seed", range(6))
def test_the_best_rows_are_those_of_a_whole_sort(seed: int) -> None:
    """For every number of rows that is asked for; equal scores in the gallery's order, NaN last."""
    generator = np.random.default_rng(seed)
    query, gallery = np.ones(2, np.float32), generator.integers(-2, 3, (7, 2)).astype(np.float32)
    gallery[generator.random(7) < 0.2] = np.nan
    scores = gallery @ query
    order = sorted(range(7), key=lambda row: (bool(np.isnan(scores[row])), -scores[row]))
    for top in range(1, 10):
        found, rows = best_rows(query, gallery, top)
        assert rows.tolist() == order[:top]
        np.testing.assert_array_equal(found, scores[order[:top]])


def test_a_query_of_another_dimension_is_an_error() -> None:
    with pytest.raises(ShapeError, match="the query has 3 dimensions, the gallery has 2"):
        best_rows(np.ones(3), np.ones((4, 2)), 1)


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_cluster(address)
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at .*; start one with: ray start"):
        check_cluster(address)
    check_cluster("auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="ray is not installed"):
        check_cluster("auto")


def test_what_began_is_counted_until_it_ends() -> None:
    counter = WorkCounter()
    assert [counter.begin("a"), counter.begin("a"), counter.begin("b")] == [1, 2, 1]
    counter.end("a")
    assert counter.begin("a") == 1


def test_a_traceback_is_its_last_line() -> None:
    traceback = 'Traceback:\n  File "x.py", line 1\nValueError: no  cup'
    assert last_line(RuntimeError(traceback)) == "ValueError: no cup"
    assert last_line(RuntimeError("")) == "RuntimeError"
