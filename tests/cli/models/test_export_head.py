"""`pe export head`: an ONNX file that onnxruntime opens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime

from perception_encoder.dense_training.run import train_dense
from tests.conftest import Run
from tests.dense_training.datasets import small_config, write_dataset


def test_a_head_is_written_and_compared(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    data = write_dataset("depth", tmp_path / "data", 4, 2)
    head = train_dense(small_config("depth", "steps=1", "validation=null", "layer=1"), [data], tmp_path / "run")
    run = run_pe("export", "head", head, tmp_path / "depth.onnx", "--size", "32x48")
    assert run.status == 0 and "depth on PE-Core-N16-128, " in run.stdout and "from torch" in run.stdout
    session = onnxruntime.InferenceSession(tmp_path / "depth.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 32, 48]
    run = run_pe("export", "head", head, tmp_path / "depth.onnx", "--size", "30x48")
    assert run.status == 2 and "both sides must be multiples of the patch" in run.stderr


def test_a_built_in_head(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    """It was "builtin-depth: no such file"."""
    run = run_pe("export", "head", "builtin-depth", tmp_path / "depth.onnx", "--size", "32x48")
    assert run.status == 0 and "depth on builtin-spatial" in run.stdout, run.stderr
