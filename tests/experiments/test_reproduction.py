"""Rows of results."""

from __future__ import annotations

from experiments.reproduction import find_rows


def test_rows_are_found_by_their_labels() -> None:
    rows = [{"name": "a", "seed": seed, "value": 0.5, "interval": [0.4, 0.6]} for seed in (0, 1)]
    assert find_rows(rows, name="a", seed=1) == rows[1:] and find_rows(rows, name="b") == []
