"""Records out of JSON, progress bars, shares of ranks, and unit vectors."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any, Literal

import numpy as np
import pytest
from rich.console import Console

from perception_encoder.errors import ClusterError, ConfigError, MissingExtraError
from perception_encoder.progress import progress_bar
from perception_encoder.ranks import Rank
from perception_encoder.ray_cluster import check_cluster
from perception_encoder.records import from_fields, parse_json
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


def test_json_that_is_damaged_or_nested_too_deep_is_a_value_error() -> None:
    assert parse_json(b'{"name": "x", "score": 2}', Outer).score == 2.0
    for content in ("{", b"\xff", "[" * 100_000, b'{"a":' * 100_000, "3", "9" * 5000):
        with pytest.raises(ValueError, match=r".+"):
            parse_json(content, Outer)


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


def test_shares_cover_everything_once() -> None:
    for count, of in product(range(20), range(1, 9)):
        items = list(range(count))
        parts = [items[Rank(rank=number, world_size=of).share(count)] for number in range(of)]
        assert [item for part in parts for item in part] == items
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert [items[share] for share in Rank(world_size=of).all_shares(count)] == parts


def test_each_row_has_length_1_and_its_direction() -> None:
    vectors = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    unit = unit_rows(vectors)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit * np.linalg.norm(vectors, axis=-1, keepdims=True), vectors, rtol=1e-5)


def test_the_best_rows_are_those_of_a_whole_sort() -> None:
    """For every number of rows that is asked for; equal scores in the gallery's order, NaN last."""
    for seed, top in product(range(6), range(1, 10)):
        generator = np.random.default_rng(seed)
        query, gallery = np.ones(2, np.float32), generator.integers(-2, 3, (7, 2)).astype(np.float32)
        gallery[generator.random(7) < 0.2] = np.nan
        scores = gallery @ query
        order = sorted(range(7), key=lambda row: (bool(np.isnan(scores[row])), -scores[row]))
        found, rows = best_rows(query, gallery, top)
        assert rows.tolist() == order[:top]
        np.testing.assert_array_equal(found, scores[order[:top]])


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        check_cluster(address)
    with pytest.raises(ClusterError, match="no Ray cluster answers at"):
        check_cluster(address)
    check_cluster("auto")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="ray is not installed"):
        check_cluster("auto")
