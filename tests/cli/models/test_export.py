"""`pe export onnx`: files that onnxruntime runs, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("in") / "nano.safetensors"
    write_checkpoint(create_model("builtin"), path, half=True)
    return path


def test_both_towers(run_pe: Callable, nano: Path, tmp_path: Path) -> None:
    run = run_pe("export", "onnx", "-m", nano, "-o", tmp_path / "out", "--size", "32x64")
    assert (run.status, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"{tmp_path / 'out' / t}.onnx" for t in ("image", "text")]
    assert all("PE-Core-N16-128, " in line and line.endswith(" from torch") for line in lines)
    sessions = [onnxruntime.InferenceSession(tmp_path / "out" / f"{tower}.onnx") for tower in ("image", "text")]
    assert [session.get_inputs()[0].shape for session in sessions] == [["batch", 3, 32, 64], ["batch", 32]]
    assert [session.get_outputs()[0].name for session in sessions] == ["image_features", "text_features"]
    assert all(session.get_modelmeta().custom_metadata_map["model"] == "PE-Core-N16-128" for session in sessions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "out", "--size", "64"], "--size is '64'; it must be height x width in pixels"),
        (["IN", "out", "--size", "64x50"], "image size 64x50 is not a multiple of the patch size 16"),
        (["PE-Spatial-T16-521", "out"], "did you mean PE-Spatial-T16-512"),
        (["IN", "full"], "exists already; name a new directory"),
    ],
)
def test_errors(run_pe: Callable, nano: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    model, out, *options = arguments
    run = run_pe("export", "onnx", nano if model == "IN" else model, tmp_path / out, *options)
    assert run.status == 2
    assert message in run.stderr and run.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]
