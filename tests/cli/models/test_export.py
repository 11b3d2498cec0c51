"""`pe export onnx` of models and heads: files that onnxruntime runs, and clear refusals; `pe export lang`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnxruntime
import pytest

import perception_encoder as pe
from perception_encoder.exports import card
from perception_encoder.models.checkpoints.weights import load_model
from tests.cards import run_card
from tests.conftest import Run
from tests.language_models.test_weights import write_file


def test_both_towers(run_pe: Callable, checkpoint: Path, tmp_path: Path) -> None:
    run = run_pe("export", "onnx", "-m", checkpoint, "-o", tmp_path / "out", "--size", "32x64")
    assert (run.status, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [f"{tmp_path / 'out' / t}.onnx" for t in ("image", "text")]
    assert all("PE-Core-N16-128 in float32, " in line and line.endswith(" from torch") for line in lines)
    sessions = [onnxruntime.InferenceSession(tmp_path / "out" / f"{tower}.onnx") for tower in ("image", "text")]
    assert [session.get_inputs()[0].shape for session in sessions] == [["batch", 3, 32, 64], ["batch", 32]]
    assert [session.get_outputs()[0].name for session in sessions] == ["image_features", "text_features"]
    assert all(session.get_modelmeta().custom_metadata_map["model"] == "PE-Core-N16-128" for session in sessions)


def test_the_program_on_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Published scores are those of the model's own image size."""
    monkeypatch.setattr(card, "published_scores", lambda model: {"ImageNet": 83.5})
    files = pe.export_onnx("builtin", tmp_path / "out", size=(64, 96))
    assert {file.model for file in files} == {"builtin"}  # which must not look published
    found = run_card(tmp_path / "out")
    assert "ImageNet" not in (tmp_path / "out" / "README.md").read_text()
    encoder = pe.load("builtin", runtime="torch", precision="float32")
    assert found["images"].shape == (1, encoder.dimension)
    expected = encoder.encode_texts(["a photo of a cat", "a photo of a dog"])
    assert abs(found["unit"][1] - expected).max() < 1e-5
    pe.export_onnx("builtin-spatial", tmp_path / "spatial")
    assert "texts" not in run_card(tmp_path / "spatial")
    assert "| ImageNet | 83.5 |" in (tmp_path / "spatial" / "README.md").read_text()


def test_int8_towers_of_a_trained_model(run_pe: Callable, tmp_path: Path) -> None:
    run = run_pe("export", "onnx", "builtin", tmp_path / "out", "--int8")
    assert (run.status, run.stderr) == (0, "")
    for line in run.stdout.splitlines():
        described, _, cosine = line.removesuffix(" with torch").rpartition(" at least ")
        assert described.endswith(".onnx: builtin in int8, a cosine similarity of") and float(cosine) >= 0.999
    names = {"image.onnx", "text.onnx", "tokenizer.json", "preprocessor_config.json", "README.md", "SHA256SUMS"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert (tmp_path / "out" / "image.onnx").stat().st_size < 8e6
    refused = run_pe("export", "onnx", "builtin-depth", tmp_path / "depth.onnx", "--int8")
    assert refused.status == 2 and refused.stderr == "error: heads are not exported in int8; omit int8\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["IN", "out", "--size", "64y"], "--size is '64y'; it must be pixels"),
        (["IN", "out", "--size", "64x50"], "image size 64x50 is not a multiple of the patch size 16"),
        (["PE-Spatial-T16-521", "out"], "did you mean PE-Spatial-T16-512"),
        (["IN", "full"], "exists and is not empty"),
    ],
)
def test_errors(run_pe: Callable, checkpoint: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    model, out, *options = arguments
    run = run_pe("export", "onnx", checkpoint if model == "IN" else model, tmp_path / out, *options)
    assert run.status == 2
    assert message in run.stderr and run.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["full", "mine"]


def test_the_encoder_of_a_language_alignment(run_pe: Callable, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    write_file(run / "language.safetensors", vision=True)
    made = run_pe("export", "lang", run, "-o", tmp_path / "lang")
    assert made.status == 0 and "4 layers of width 192, for images of 64 px" in made.stdout
    names = {"config.json", "model.safetensors", "README.md", "SHA256SUMS"}
    assert {path.name for path in (tmp_path / "lang").iterdir()} == names
    assert run_card(tmp_path / "lang")["tokens"].shape == (1, 17, 192)
    assert run_pe("export", "lang", run, tmp_path / "lang.safetensors", "--half").status == 0
    assert load_model(tmp_path / "lang.safetensors").config.depth == 4
    missing = run_pe("export", "lang", tmp_path / "none", tmp_path / "x")
    assert missing.status == 2 and "no language model is called" in missing.stderr


def test_a_built_in_head_as_onnx(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    run = run_pe("export", "onnx", "builtin-depth", tmp_path / "depth.onnx", "--size", "32x48")
    assert run.status == 0 and "depth on builtin-spatial in float32, " in run.stdout, run.stderr
    session = onnxruntime.InferenceSession(tmp_path / "depth.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape[1:] == [3, 32, 48]
    run = run_pe("export", "onnx", "builtin-depth", tmp_path / "depth.onnx", "--size", "30x48")
    assert run.status == 2 and "both sides must be multiples of the patch" in run.stderr
    run = run_pe("export", "onnx", "builtin-spatial", tmp_path / "out", "--encoder", "builtin")
    assert run.status == 2 and "builtin-spatial is not a head; omit the encoder" in run.stderr
