"""`pe train builtin` in its debug form: it trains, goes on where it stopped, and names wrong settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Run


def test_trains_and_says_where_the_weights_are(run_pe: Callable[..., Run], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", "builtin", "--photos", photos, "--out", out, "--debug", "--set", "batch_size=8")
    run = run_pe(*arguments)
    assert run.status == 0, run.stderr
    assert str(out / "model.safetensors") in run.stdout.replace("\n", "")
    assert json.loads((out / "config.json").read_text())["config"]["batch_size"] == 8
    steps = [json.loads(row)["step"] for row in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    again = run_pe(*arguments)  # all steps are done: nothing is trained again
    assert again.status == 0
    assert "contrastive" not in again.stdout


def test_a_setting_that_does_not_exist(run_pe: Callable[..., Run], photos: Path, tmp_path: Path) -> None:
    run = run_pe("train", "builtin", "--photos", photos, "--out", tmp_path / "run", "--set", "batchsize=8")
    assert run.status == 2
    assert "did you mean batch_size?" in run.stderr
    assert not (tmp_path / "run").exists()


def test_a_folder_without_shards(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    run = run_pe("train", "builtin", "--photos", tmp_path, "--out", tmp_path / "run", "--debug")
    assert run.status == 2
    assert "train.tar" in run.stderr
