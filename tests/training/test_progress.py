"""Reports of a run: losses, speed, use of the device, time left."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest

from perception_encoder.training import loop
from perception_encoder.training.cost import RunCost
from perception_encoder.training.loop import train
from tests.training.toys import CONFIG, Regression, batch, rows

WORK = RunCost(lambda batch: 1e6 * len(batch), [(15, 1.0), (15, 3.0)])


def test_reports_say_how_well_the_device_is_used_and_how_long_the_rest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 6))  # every look at the clock comes six seconds after the one before
    fake = SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=lambda: 0.0)
    monkeypatch.setattr(loop, "time", fake)
    monkeypatch.setattr(loop, "prefetch", lambda made, first, last: ((n, made(n), 0.0) for n in range(first, last)))
    monkeypatch.setattr(loop, "peak_flops", lambda device: 1e8)
    config = dataclasses.replace(CONFIG, log_every=10)
    train(Regression(), batch, config, tmp_path / "work", "a", cost=WORK)
    reports = rows(tmp_path / "work")
    steps = [1, 9, 10, 10]  # since the row before; the first step has a row of its own
    assert [row["step"] for row in reports] == [1, 10, 20, 30]
    assert [row["mfu"] for row in reports] == [pytest.approx(n * 32e6 / 6 / 1e8, rel=1e-3) for n in steps]
    assert [row["samples_per_second"] for row in reports] == [pytest.approx(n * 32 / 6, rel=1e-3) for n in steps]
    lefts = [6 * 59, 6 * 50 / 9, 6 * 30 / 20, 0]
    assert [row["seconds_left"] for row in reports] == [pytest.approx(left, rel=1e-3) for left in lefts]
    train(Regression(), batch, config, tmp_path / "steps", "a")
    lefts = [6 * 29, 6 * 20 / 9, 6, 0]
    assert [row["seconds_left"] for row in rows(tmp_path / "steps")] == [pytest.approx(x, rel=1e-3) for x in lefts]
    assert "mfu" not in rows(tmp_path / "steps")[0]
