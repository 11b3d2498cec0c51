"""Several processes have the losses of one: FSDP2 on unlike numbers of rows, runs on any ranks, killed and resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from perception_encoder.models.checkpoints.weights import load_model
from tests import processes
from tests.conftest import ROOT
from tests.pretraining.sharing import CASES, LR, losses_and_gradients
from tests.processes import Processes, pe
from tests.training.toys import losses, validations

SETTINGS = ("masking.every=4", "masking.ratio=0.5", "parallel.chunk=3")
NAMES = ("contrastive", "mask")
FLOAT32 = {"PE_DTYPE": "float32"}  # in bfloat16, other parts of a batch round differently


def arguments(photos: Path, out: Path, *settings: str) -> list[str]:
    told = [word for setting in settings for word in ("--set", setting)]
    return ["train", "core_n16", "--debug", "--data", str(photos), "--out", str(out), *told]


def start(photos: Path, out: Path, ranks: int, *settings: str) -> Processes:
    """`pe train` as so many ranks; one is no rank, but by itself."""
    given, log = arguments(photos, out, *settings), out.with_name(f"{out.name}.log")
    return processes.start(pe, *given, log=log, ranks=None if ranks == 1 else ranks, environment=FLOAT32)


def run(photos: Path, out: Path, ranks: int, *settings: str) -> None:
    started = start(photos, out, ranks, *settings)
    assert not any(started.statuses()), started.output()


def run_by_torchrun(photos: Path, out: Path, ranks: int, *settings: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["--no-python", sys.executable, "-P", "-m", "perception_encoder", *arguments(photos, out, *settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **FLOAT32}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]


def best(out: Path) -> dict[str, float]:
    return json.loads((out / "config.json").read_text())["best"]


def test_ranks_train_and_validate_as_one_and_resume_with_another_number(photos: Path, tmp_path: Path) -> None:
    """FSDP2 by torchrun, DDP on four processes, and a run that another number of ranks resumes."""
    one, settings = tmp_path / "one", (*SETTINGS, "validation.every=1", "validation.share=0.25")
    run(photos, one, 1, *settings)
    expected = [pytest.approx(row, rel=5e-5) for row in losses(one, *NAMES)]
    for ranks, kind, by in ((2, "fsdp", run_by_torchrun), (4, "ddp", run)):
        several = tmp_path / f"{kind}{ranks}"
        by(photos, several, ranks, *settings, f"parallel.kind={kind}")
        assert losses(several, *NAMES) == expected
        assert validations(several) == validations(one) and best(several) == best(one)
        ours, theirs = (load_model(out / "model.safetensors").state_dict() for out in (one, several))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=0.02, atol=2e-3, msg=name)
    shutil.rmtree(tmp_path / "fsdp2" / "checkpoints" / "step-00000004")
    run(photos, tmp_path / "fsdp2", 1, *settings, "parallel.kind=fsdp")
    assert losses(tmp_path / "fsdp2", *NAMES) == expected


def test_ranks_share_the_encoding_of_captions_that_are_kept(photos: Path, tmp_path: Path) -> None:
    settings = ("locked=text", "batch_size=32", "masking=null")  # it draws more pairs than there are captions
    for ranks in (1, 2):
        run(photos, tmp_path / str(ranks), ranks, *settings)
    one, two = (losses(tmp_path / name, "contrastive") for name in ("1", "2"))
    assert two == [pytest.approx(row, rel=5e-5) for row in one]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(photos: Path, tmp_path: Path, ranks: int) -> None:
    """SIGKILL at random moments, once between a validation and the next checkpoint; all is equal bit by bit."""
    settings = (*SETTINGS, "stages.0.steps=9", "stages.1.steps=9", "batch_size=8", "checkpoint_every=3")
    settings += ("validation.every=2", "validation.share=0.25")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(photos, whole, ranks, *settings)
    chance, metrics = random.Random(4), broken / "metrics.jsonl"
    for kill in range(5):
        started = start(photos, broken, ranks, *settings)
        step = 2 * kill + chance.randint(1, 4)  # a checkpoint is written every three
        until = '"step": 4, "validation' if kill == 1 else f'"step": {step},'
        while started.running() and (not metrics.exists() or until not in metrics.read_text()):
            time.sleep(0.01)
        time.sleep(0 if kill == 1 else chance.uniform(0, 0.3))
        if not started.running():  # it ended before this process, on a busy machine, looked again
            break
        started.kill()
    assert kill >= 3
    run(photos, broken, ranks, *settings)
    assert losses(broken, *NAMES) == losses(whole, *NAMES) and len(losses(whole, "contrastive")) == 18
    assert validations(broken) == validations(whole) and len(validations(whole)) == 9 and best(broken) == best(whole)
    for weights in ("model.safetensors", "best.safetensors"):
        ours, theirs = (load_model(out / weights).state_dict() for out in (whole, broken))
        assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_more_ranks_than_pairs_is_said_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    started = start(photos, tmp_path / "run", 2, "batch_size=1")
    assert any(started.statuses(100)) and "cannot be shared by 2 ranks" in started.output()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What two processes found."""
    out = tmp_path_factory.mktemp("sharing") / "found.pt"
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    done = subprocess.run(
        [*command, "-m", "tests.pretraining.sharing", str(out)],
        capture_output=True,
        text=True,
        cwd=root,
        env=environment,
        timeout=200,
    )
    assert done.returncode == 0 and "UserWarning" not in done.stderr, done.stderr[-3000:]
    return torch.load(out, weights_only=True)


@pytest.mark.parametrize("case", CASES)
def test_ranks_with_unlike_numbers_of_rows_find_what_one_process_finds(
    case: str, shared: dict[str, dict[str, torch.Tensor]]
) -> None:
    expected = losses_and_gradients(*CASES[case])
    assert shared[case].keys() == expected.keys()
    assert expected["contrastive"] > 0.5 and expected["mask"] > 0.05
    assert expected["gradient mask_token"].abs().max() > 0
    if case == "bfloat16":
        ours, theirs = (torch.cat([item[name].flatten() for name in expected]) for item in (shared[case], expected))
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
        return
    for name, value in expected.items():
        near = 2e-6 if name.startswith(("contrastive", "mask", "gradient")) and name != "mask_token" else 3 * LR
        torch.testing.assert_close(shared[case][name], value, rtol=1e-4, atol=near, msg=name)
