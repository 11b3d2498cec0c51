"""`pe train` with the built-in recipe's debug form: it trains, goes on, and names wrong settings."""

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


def test_recipes_are_listed_and_an_unknown_one_is_answered_with_near_ones(run_pe: Callable[..., Run]) -> None:
    listed = run_pe("train", "--list")
    assert listed.status == 0 and "builtin" in listed.stdout and "PE-Core-N16-128" in listed.stdout
    wrong = run_pe("train", "buildin")
    assert wrong.status == 2 and "did you mean builtin" in wrong.stderr


def test_without_data_nothing_begins(run_pe: Callable[..., Run]) -> None:
    run = run_pe("train", "builtin")
    assert run.status == 2 and "give --data DIR" in run.stderr


def test_a_plan_of_a_run_on_a_cluster(run_pe: Callable[..., Run]) -> None:
    run = run_pe("train", "core_g14", "--plan", "--devices", "512")
    assert run.status == 0, run.stderr
    assert "656,000" in run.stdout and "optimizer" in run.stdout and "GB: fits" in run.stdout
    small = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "989:40")
    assert "does not fit" in small.stdout
    slow = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "98.9:80", "--utilization", "0.4")
    hours = [int(each.stdout.partition(" device-hours, ")[0].split()[-1].replace(",", "")) for each in (run, slow)]
    assert abs(hours[1] - 10 * hours[0]) <= 10  # both are rounded
    unknown = run_pe("train", "core_g14", "--plan", "--device", "h10")
    assert unknown.status == 2 and "did you mean h100?" in unknown.stderr
    for recipe, holds in (("distill_builtin", "assumed: the teacher encodes 78% of"), ("finetune", "buckets")):
        small = run_pe("train", recipe, "--plan")
        assert small.status == 0 and holds in small.stdout and " 0 device-hours" not in small.stdout, small.stderr
