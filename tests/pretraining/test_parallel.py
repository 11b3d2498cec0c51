"""A run by several processes: the losses of one process, on any number of ranks, killed and resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from perception_encoder.models.weights import load_model

SETTINGS = ("masking.every=4", "masking.ratio=0.5", "parallel.chunk=3")


FLOAT32 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Makes bfloat16 slow, so that runs compute in float32: other parts of a batch are rounded otherwise in bfloat16."""


def start(photos: Path, out: Path, processes: int, *settings: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    ranks = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *ranks, "-m", "perception_encoder", "train", "builtin", "--debug"]
    command += ["--photos", str(photos), "--out", str(out)]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, **FLOAT32}
    piped = subprocess.PIPE
    return subprocess.Popen(command, cwd=root, env=environment, stderr=piped, stdout=piped, text=True)


def run(photos: Path, out: Path, processes: int, *settings: str) -> None:
    process = start(photos, out, processes, *settings)
    _, said = process.communicate(timeout=250)
    assert process.returncode == 0, said[-3000:]


def losses(out: Path) -> list[tuple[int, float, float]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row["contrastive"], row.get("mask", 0.0)) for row in rows]


def test_ranks_train_as_one_and_go_on_where_others_stopped(photos: Path, tmp_path: Path) -> None:
    """DDP and FSDP2, two and four processes, and a run that is gone on with by another number of ranks."""
    one = tmp_path / "one"
    run(photos, one, 1, *SETTINGS)
    expected = [pytest.approx(row, rel=5e-5) for row in losses(one)]
    for processes, kind in ((2, "fsdp"), (4, "ddp")):
        several = tmp_path / f"{kind}{processes}"
        run(photos, several, processes, *SETTINGS, f"parallel.kind={kind}")
        assert losses(several) == expected
        ours, theirs = (load_model(out / "model.safetensors").state_dict() for out in (one, several))
        for name, value in ours.items():
            torch.testing.assert_close(theirs[name], value, rtol=0.02, atol=2e-3, msg=name)
    shutil.rmtree(tmp_path / "fsdp2" / "checkpoints" / "step-00000004")
    run(photos, tmp_path / "fsdp2", 1, *SETTINGS, "parallel.kind=fsdp")
    assert losses(tmp_path / "fsdp2") == expected


def test_ranks_share_the_encoding_of_captions_that_are_kept(photos: Path, tmp_path: Path) -> None:
    settings = ("locked=text", "batch_size=32", "masking=null")  # it draws more pairs than there are captions
    for processes in (1, 2):
        run(photos, tmp_path / str(processes), processes, *settings)
    one, two = ([row[:2] for row in losses(tmp_path / name)] for name in ("1", "2"))
    assert two == [pytest.approx(row, rel=5e-5) for row in one]


@pytest.mark.timeout(600)
def test_a_run_that_is_killed_again_and_again_ends_as_an_unbroken_one(photos: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments; the losses are equal bit by bit."""
    settings = (*SETTINGS, "stages.0.steps=12", "stages.1.steps=12", "checkpoint_every=3")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    run(photos, whole, 1, *settings)
    chance, metrics = random.Random(4), broken / "metrics.jsonl"
    for kill in range(5):
        process = start(photos, broken, 1, *settings)
        until = 3 * kill + chance.randint(1, 5)  # steps; a checkpoint is written every three
        while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) < until):
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    run(photos, broken, 1, *settings)
    assert losses(broken) == losses(whole) and len(losses(whole)) == 24
    ours, theirs = (load_model(out / "model.safetensors").state_dict() for out in (whole, broken))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_more_ranks_than_pairs_is_said_before_the_first_step(photos: Path, tmp_path: Path) -> None:
    process = start(photos, tmp_path / "run", 2, "batch_size=2", "stages.1.batch_size=1")
    _, said = process.communicate(timeout=100)
    assert process.returncode != 0 and "cannot be shared by 2 ranks" in said
