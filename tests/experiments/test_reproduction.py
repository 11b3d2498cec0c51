"""Rows of results, and how pages write them."""

from __future__ import annotations

from experiments.reproduction import find_rows, percent, points


def test_rows_and_how_they_are_written() -> None:
    rows = [{"name": "a", "seed": seed, "value": 0.5, "interval": [0.4, 0.6]} for seed in (0, 1)]
    assert find_rows(rows, name="a", seed=1) == rows[1:] and find_rows(rows, name="b") == []
    assert percent(rows[0]) == "50.0 ±10.0" and points(rows[0]) == "+50.0 (+40.0 to +60.0)"
    assert points({"value": -0.01, "interval": None}) == "−1.0"
