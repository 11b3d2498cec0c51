"""Results of earlier versions are read with today's keys."""

from __future__ import annotations

from experiments.reproduction import find_rows, percent, points, with_new_keys


def test_old_keys_are_renamed_at_every_depth() -> None:
    old = {"figures": [{"name": "a", "value": 0.5, "ci": [0.4, 0.6]}], "curves": [{"gap": {"ci": None}}]}
    new = {"scores": [{"name": "a", "value": 0.5, "interval": [0.4, 0.6]}], "curves": [{"gap": {"interval": None}}]}
    assert with_new_keys(old) == new == with_new_keys(new)


def test_rows_and_how_they_are_written() -> None:
    rows = [{"name": "a", "seed": seed, "value": 0.5, "interval": [0.4, 0.6]} for seed in (0, 1)]
    assert find_rows(rows, name="a", seed=1) == rows[1:] and find_rows(rows, name="b") == []
    assert percent(rows[0]) == "50.0 ±10.0" and points(rows[0]) == "+50.0 (+40.0 to +60.0)"
    assert points({"value": -0.01, "interval": None}) == "−1.0"
