"""`pe train` with the debug form of the smallest recipe: it trains, goes on, and names wrong settings."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from perception_encoder.stages import ConfiguredRecipe
from perception_encoder.training import loop
from perception_encoder.training.checkpoint import find_checkpoints, run_directory
from tests import processes
from tests.conftest import Run
from tests.dense_training.datasets import write_dataset
from tests.processes import Processes, pe
from tests.training.toys import rows


def test_trains_and_says_where_the_weights_are(run_pe: Callable[..., Run], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    settings = ("batch_size=8", "validation.every=2", "validation.share=0.25")
    arguments = ("train", "core_n16", "--data", photos, "--out", out, "--debug")
    arguments += tuple(word for setting in settings for word in ("--set", setting))
    run = run_pe(*arguments)
    assert run.status == 0, run.stderr
    assert run.stdout.count("validation/retrieval") == 2
    for name in ("model.safetensors", "best.safetensors"):
        assert str(out / name) in run.stdout.replace("\n", "") and (out / name).exists()
    assert json.loads((out / "config.json").read_text())["config"]["batch_size"] == 8
    assert [row["step"] for row in rows(out) if "contrastive" in row] == [1, 2, 3, 4]
    again = run_pe(*arguments)  # all steps are done: nothing is trained again
    assert again.status == 0
    assert "contrastive" not in again.stdout


@pytest.mark.parametrize(
    ("recipe", "task", "command"),
    [("depth", "depth", "depth"), ("segmenter", "segmentation", "segment")],
)
def test_a_head_says_what_is_frozen_and_how_to_try_it(
    recipe: str, task: str, command: str, run_pe: Callable[..., Run], tmp_path: Path
) -> None:
    """A segmenter named `pe classify`, which does not take it."""
    data = write_dataset(recipe, tmp_path / "data")
    run = run_pe("train", recipe, "--data", data, "--out", tmp_path / "run", "--debug")
    assert run.status == 0, run.stderr
    message = " ".join(run.stderr.split())
    assert "loaded: encoder: PE-Core-N16-128" in message and f"; head for {task}: random weights" in message
    assert "the encoder is entirely frozen" in message
    assert f"try it: pe {command} IMAGE --head" in " ".join(run.stdout.split())


def test_a_folder_that_another_run_trains_in(run_pe: Callable[..., Run], photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = ("train", "core_n16", "--data", photos, "--out", out, "--debug")
    with run_directory(out):
        run = run_pe(*arguments)
        assert [path.name for path in out.iterdir()] == ["lock"]
    assert run.status == 2 and run.stderr.replace("\n", " ").count("another run is training in") == 1
    assert run_pe(*arguments).status == 0


@pytest.mark.parametrize("existed", [False, True])
def test_a_refused_run_leaves_its_folder_as_it_was(
    existed: bool, run_pe: Callable[..., Run], photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    if existed:
        out.mkdir()
    run = run_pe("train", "finetune", "--data", photos, "--out", out, "--set", "steps=20", "--set", "warmup=31")
    assert run.status == 2 and "warmup is 31; it must be at most the steps of the run, 20" in run.stderr
    assert (list(out.iterdir()) == []) if existed else not out.exists()


def test_a_setting_that_does_not_exist(run_pe: Callable[..., Run], photos: Path, tmp_path: Path) -> None:
    run = run_pe("train", "core_n16", "--data", photos, "--out", tmp_path / "run", "--set", "batchsize=8")
    assert run.status == 2
    assert "did you mean batch_size?" in run.stderr
    assert not (tmp_path / "run").exists()


def test_every_setting_is_printed_with_its_default_and_meaning(run_pe: Callable[..., Run]) -> None:
    run = run_pe("train", "spatial_builtin", "--settings", "--set", "lr=3e-3", "--set", "masking.block=4")
    assert run.status == 0, run.stderr
    header, *lines = (line.split("\t") for line in run.stdout.splitlines())
    assert header == ["setting", "default", "meaning"]
    settings = {name: (value, meaning) for name, value, meaning in lines}
    assert settings["lr"][0] == settings["optimizer.lr"][0] == "0.003"
    assert settings["masking.block"][0] == "4" and "blocks at the right" in settings["masking.block"][1]
    assert settings["augmentation.scale"] == ("[0.3,1.0]", "Share of the image's area in a crop.")
    assert settings["teacher"][0] == "null" and settings["parallel.checkpointing"][0] == "false"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_writes_a_checkpoint_and_resumes(number: int, status: int, photos: Path, tmp_path: Path) -> None:
    """As two ranks, long before a checkpoint is due; then the same command goes on.

    One rank gets the Ctrl-C, all get SIGTERM, as Slurm sends it.
    """
    out, log = tmp_path / "run", tmp_path / "log"
    settings = ["batch_size=4", "stages.0.steps=500", "stages.1.steps=2", "checkpoint_every=10000", "log_every=1"]
    arguments = ["train", "core_n16", "--data", str(photos), "--out", str(out), "--debug"]
    arguments += [word for setting in settings for word in ("--set", setting)]
    started = processes.start(interruptible, *arguments, log=log, ranks=2)
    wait_for(started, "step 3 ")
    for process in started.processes[1 if number == signal.SIGINT else 0 :]:
        os.kill(process.pid, number)
    assert started.statuses() == [status, status], started.output()
    [(_, state)] = find_checkpoints(out)
    message = " ".join(started.output().split())
    assert f"stopped by {signal.Signals(number).name}; wrote the checkpoint of step {state.step}" in message
    assert f"warning: stopped; rerun the command to resume from step {state.step} in {out}" in message
    assert "Traceback" not in message and "Error" not in message
    again = processes.start(interruptible, *arguments, log=tmp_path / "again", ranks=2)
    wait_for(again, f"step {state.step + 1} ")
    assert f"resuming from step {state.step}" in again.output() and "step 3 " not in again.output()
    again.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_stopped_before_its_first_step_starts_again(
    number: int, status: int, photos: Path, tmp_path: Path
) -> None:
    out, log = tmp_path / "run", tmp_path / "log"
    started = processes.start(slow_start, "train", "core_n16", "--data", str(photos), "--out", str(out), log=log)
    wait_for(started, "reading")
    os.kill(started.processes[0].pid, number)
    assert started.statuses() == [status], started.output()
    message = " ".join(started.output().split())
    assert f"warning: stopped before the first checkpoint in {out}; rerun the command to start again" in message
    assert "Traceback" not in message and "Error" not in message


def test_a_second_ctrl_c_stops_at_once(photos: Path, tmp_path: Path) -> None:
    arguments = ("train", "core_n16", "--debug", "--data", str(photos), "--out", str(tmp_path / "run"))
    started = processes.start(slow_step, *arguments, log=tmp_path / "log")
    wait_for(started, "stepping")
    for _ in range(2):
        os.kill(started.processes[0].pid, signal.SIGINT)
        time.sleep(0.5)
    assert started.statuses(20) == [130], started.output()
    assert "stopped before the first checkpoint" in " ".join(started.output().split())


def wait_for(started: Processes, text: str) -> None:
    deadline = time.monotonic() + 100
    while text not in started.output() and started.running() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert text in started.output(), started.output()


def interruptible(*arguments: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job inherits that it is ignored
    pe(*arguments)


def slow_start(*arguments: str) -> None:
    """Data that take an hour to read."""
    ConfiguredRecipe.train = lambda *_: print("reading", flush=True) or time.sleep(3600)  # type: ignore[assignment]
    interruptible(*arguments)


def slow_step(*arguments: str) -> None:
    """A step that takes an hour."""
    loop._backward = lambda *_: print("stepping", flush=True) or time.sleep(3600)  # type: ignore[assignment]
    interruptible(*arguments)


def test_recipes_are_listed_and_an_unknown_one_shows_near_ones(run_pe: Callable[..., Run]) -> None:
    listed = run_pe("train", "--list")
    assert listed.status == 0 and "core_n16\t" in listed.stdout
    assert "core_g14\tPE-Core-G: 86 billion pairs" in listed.stdout
    wrong = run_pe("train", "core_n61")
    assert wrong.status == 2 and "did you mean core" in wrong.stderr


def test_a_plan_of_a_run_on_a_cluster(run_pe: Callable[..., Run]) -> None:
    run = run_pe("train", "core_g14", "--plan", "--devices", "512")
    assert run.status == 0, run.stderr
    assert "2,419.3 million parameters" in run.stdout and "448\t26,240\t131,072\t1.78e+18" in run.stdout
    assert "optimizer" in run.stdout and "GB: fits" in run.stdout
    assert "2.18e+23 FLOPs (3.39e+23 with those repeated to save memory) on 512 devices at 40 %" in run.stdout
    assert "of 989 TFLOP/s: 465 hours (19 days)" in run.stdout  # 3.39e23 / (512 · 0.4 · 989e12) seconds
    small = run_pe("train", "core_g14", "--plan", "--devices", "512", "--device", "989:40", "--utilization", "0.8")
    assert "does not fit" in small.stdout and "(9.7 days)" in small.stdout
    advice = " ".join(small.stdout.split()).partition("must stay free; ")[2]
    assert advice.startswith("use more --devices") and "parallel." not in advice  # it has them all
    partly = run_pe("train", "core_l14", "--plan", "--device", "989:40").stdout
    advice = " ".join(partly.split()).partition("must stay free; ")[2]
    assert advice.startswith("use more --devices or --set parallel.kind=fsdp or --set parallel.chunk=N")
    assert "checkpointing" not in advice
    unknown = run_pe("train", "core_g14", "--plan", "--device", "h10")
    assert unknown.status == 2 and "use a100-40gb" in unknown.stderr
    for recipe, holds in (
        ("distill_builtin", "assumed: the teacher encodes every pair"),
        ("finetune", "million of them trained"),
    ):
        small = run_pe("train", recipe, "--plan")
        assert small.status == 0 and holds in small.stdout and " 0 device-hours" not in small.stdout, small.stderr
    few = run_pe("train", "language_custom", "--set", "batch_size=6", "--plan")
    assert few.status == 0 and "6 devices at 40 %" in few.stdout, few.stderr
