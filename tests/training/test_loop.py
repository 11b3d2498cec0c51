"""The training loop on a small task: it learns, resumes exactly, reports, and stops on what it cannot mend."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from perception_encoder.errors import CheckpointError, DataError, OutputError
from perception_encoder.ranks import ALONE
from perception_encoder.training import loop
from perception_encoder.training.checkpoint import find_checkpoints
from perception_encoder.training.loop import Section, train_steps
from perception_encoder.training.metrics import FILE, Metrics
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from tests.training.toys import CONFIG, Regression, batch, rows


def losses_of(directory: Path) -> list[float]:
    return [row["error"] for row in rows(directory)]


def test_learns_and_reports_every_step(tmp_path: Path) -> None:
    task = Regression()
    seen: list[dict[str, float]] = []
    train_steps(Section(task, batch), CONFIG, tmp_path, "a", seen.append)
    assert losses_of(tmp_path)[-1] < 0.2 * losses_of(tmp_path)[0]
    assert seen == rows(tmp_path)
    assert task.steps_seen == 30


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_an_optimizer_does_not_clip_by_itself(name: str) -> None:
    """timm's LAMB does by default, each rank for itself. Adam's running mean shows the size of a gradient."""
    model = nn.Linear(4, 1)
    optimizer = build_optimizer(model, OptimizerConfig(name=name, max_grad_norm=None))
    model.weight.grad = torch.full_like(model.weight, 100.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[model.weight]["exp_avg"], torch.full_like(model.weight, 10.0))


def test_gradients_are_clipped_to_their_norm_or_never(tmp_path: Path) -> None:
    def moved(norm: float | None) -> float:
        task, directory = Regression(), tmp_path / str(norm)
        directory.mkdir()
        optimizer = OptimizerConfig(name="sgd", lr=0.1, weight_decay=0, max_grad_norm=norm)
        train_steps(
            Section(task, batch), dataclasses.replace(CONFIG, steps=1, warmup=0, optimizer=optimizer), directory, "a"
        )
        return float(torch.cat([parameter.detach().flatten() for parameter in task.model.parameters()]).norm())

    fresh = Regression()
    fresh.losses(batch(0))["error"].backward()
    whole = float(torch.cat([parameter.grad.flatten() for parameter in fresh.model.parameters()]).norm())
    assert whole > 1 and moved(None) / moved(0.01) == pytest.approx(whole / 0.01, rel=1e-3)


@pytest.mark.parametrize("stop", [10, 29])
def test_a_resumed_run_equals_an_unbroken_one(tmp_path: Path, stop: int) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    unbroken, resumed = Regression(), Regression()
    train_steps(Section(unbroken, batch), CONFIG, whole, "a")
    train_steps(Section(Regression(), batch, stop), CONFIG, broken, "a")
    train_steps(Section(resumed, batch), CONFIG, broken, "a")
    assert losses_of(broken) == losses_of(whole)
    assert torch.equal(unbroken.model.weight, resumed.model.weight)


class Killed(Exception):
    """Stands for SIGKILL."""


def test_checkpoints_by_the_clock_change_nothing_but_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step takes a minute here, and one kill comes between two checkpoints that the settings count."""
    minutes = iter(range(10_000))
    monkeypatch.setattr(
        loop, "time", SimpleNamespace(perf_counter=time.perf_counter, monotonic=lambda: 60.0 * next(minutes))
    )
    config = dataclasses.replace(CONFIG, checkpoint_every=20, checkpoint_minutes=2.5, keep=99)
    unbroken, resumed = Regression(), Regression()
    train_steps(Section(unbroken, batch), dataclasses.replace(config, checkpoint_minutes=1e9), tmp_path / "whole", "a")

    def deadly(step: int) -> Tensor:
        if step == 14:
            raise Killed
        return batch(step)

    with pytest.raises(Killed):
        train_steps(Section(Regression(), deadly), config, tmp_path / "broken", "a")
    assert [state.step for _, state in find_checkpoints(tmp_path / "broken")] == [12, 9, 6, 3]
    train_steps(Section(resumed, batch), config, tmp_path / "broken", "a")
    assert torch.equal(unbroken.model.weight, resumed.model.weight)
    assert losses_of(tmp_path / "broken") == losses_of(tmp_path / "whole")


def test_a_damaged_checkpoint_gives_way_to_an_older_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_steps(Section(Regression(), batch), CONFIG, whole, "a")
    train_steps(Section(Regression(), batch, 21), CONFIG, broken, "a")
    newest, older = (path for path, _ in find_checkpoints(broken))
    assert (newest.name, older.name) == ("step-00000021", "step-00000014")
    for part in newest.glob("*.distcp"):
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    train_steps(Section(Regression(), batch), CONFIG, broken, "a")
    assert "step-00000021 cannot be read" in caplog.text
    assert losses_of(broken) == losses_of(whole)


@pytest.mark.parametrize("file", [".metadata", "run.json"])
def test_where_no_checkpoint_can_be_read_that_is_said(file: str, tmp_path: Path) -> None:
    """And a long run does not start again over it."""
    train_steps(Section(Regression(), batch, 7), CONFIG, tmp_path, "a")
    for path, _ in find_checkpoints(tmp_path):
        (path / file).write_bytes(b"no metadata")
    with pytest.raises(CheckpointError, match="delete them to start again"):
        train_steps(Section(Regression(), batch), CONFIG, tmp_path, "a")


def test_a_checkpoint_of_another_model_is_named(tmp_path: Path) -> None:
    train_steps(Section(Regression(), batch, 7), CONFIG, tmp_path, "a")
    other = Regression()
    for model, told in (
        (nn.Linear(5, 1), "shape of "),
        (nn.Sequential(nn.Linear(4, 1)), "model/"),
        (nn.Linear(4, 1, bias=False), "model/bias"),
    ):
        other.model = model
        with pytest.raises(CheckpointError, match=rf"does not fit this run \({told}"):
            train_steps(Section(other, batch), CONFIG, tmp_path, "a")


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    train_steps(Section(Regression(), batch, 7), CONFIG, tmp_path, "a")
    before = find_checkpoints(tmp_path)
    with pytest.raises(DataError, match="loss is nan"):
        train_steps(
            Section(Regression(), lambda step: batch(step) * (math.nan if step == 9 else 1)), CONFIG, tmp_path, "a"
        )
    assert find_checkpoints(tmp_path) == before


def test_a_full_disk_is_survived_until_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train_steps(Section(Regression(), batch, 7), CONFIG, tmp_path, "a")
    rename, failing = Path.rename, {"step-00000014", "step-00000021"}

    def full(path: Path, target: Path) -> Path:
        if target.name in failing:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    train_steps(Section(Regression(), batch, 28), CONFIG, tmp_path, "a")
    assert caplog.text.count("No space left on device; training continues") == 2
    assert [state.step for _, state in find_checkpoints(tmp_path)] == [28, 7]
    failing.add("step-00000030")
    with pytest.raises(OutputError, match="No space left"):
        train_steps(Section(Regression(), batch), CONFIG, tmp_path, "a")
    assert [state.step for _, state in find_checkpoints(tmp_path)] == [28, 7]


def test_reports_say_how_fast_a_run_is_and_how_long_the_rest_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 10_000, 6))  # every look at the clock comes six seconds after the one before
    fake = SimpleNamespace(perf_counter=lambda: float(next(clock)), monotonic=lambda: 0.0)
    monkeypatch.setattr(loop, "time", fake)
    monkeypatch.setattr(loop, "prefetch", lambda made, first, last: ((n, made(n), 0.0) for n in range(first, last)))
    config = dataclasses.replace(CONFIG, log_every=10)
    train_steps(Section(Regression(), batch, work=[(15, 1.0), (15, 3.0)]), config, tmp_path / "work", "a")
    reports = rows(tmp_path / "work")
    steps = [1, 9, 10, 10]  # since the row before; the first step has a row of its own
    assert [row["step"] for row in reports] == [1, 10, 20, 30]
    assert [row["samples_per_second"] for row in reports] == [pytest.approx(n * 32 / 6, rel=1e-3) for n in steps]
    lefts = [6 * 59, 6 * 50 / 9, 6 * 30 / 20, 0]
    assert [row["seconds_left"] for row in reports] == [pytest.approx(left, rel=1e-3) for left in lefts]
    train_steps(Section(Regression(), batch), config, tmp_path / "steps", "a")
    lefts = [6 * 29, 6 * 20 / 9, 6, 0]
    assert [row["seconds_left"] for row in rows(tmp_path / "steps")] == [pytest.approx(x, rel=1e-3) for x in lefts]


def test_rows_after_the_step_that_is_resumed_from_are_dropped(tmp_path: Path) -> None:
    heard: list[dict[str, float]] = []
    first = Metrics(tmp_path, 0, ALONE)
    for step in (1, 2, 3):
        first.write({"step": step, "loss": 1 / step})
    first.close()
    with (tmp_path / FILE).open("a") as file:
        file.write('{"step": 4, "lo')  # killed
    again = Metrics(tmp_path, 2, ALONE, heard.append)
    again.write({"step": 3, "loss": 9.0}, record=False)
    again.write({"step": 3, "loss": 8.0})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text().splitlines()]
    assert rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 3, "loss": 8.0}]
    assert [row["loss"] for row in heard] == [9.0, 8.0]


def test_a_table_has_a_row_for_each_step(tmp_path: Path) -> None:
    """A step that was validated has one row, as spreadsheets and pandas want it, and one that was not has gaps."""
    metrics = Metrics(tmp_path, 0, ALONE)
    metrics.write({"step": 1, "loss": 0.5, "lr": 0.1})
    metrics.write({"step": 2, "loss": 0.25, "lr": 0.2})
    metrics.write({"step": 2, "validation/top1": 0.9})
    metrics.close()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,lr,validation/top1\n1,0.5,0.1,\n2,0.25,0.2,0.9\n"
