"""Exported towers agree with torch, through onnxruntime."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from perception_encoder.errors import MissingExtraError, OutputError, ShapeError
from perception_encoder.exports import card
from perception_encoder.exports import onnx as export
from perception_encoder.exports.onnx import write_onnx
from perception_encoder.models.checkpoints.weights import Model
from perception_encoder.models.config import VisionConfig
from tests.models.small import KINDS, TOKENS, random_images, small_clip, small_tower

SHALLOW = replace(TOKENS, depth=1)
TEXTS = torch.tensor([[1, 5, 49, 0, 0, 0, 0, 0], [3, 2, 1, 7, 49, 0, 0, 0], [49, 0, 0, 0, 0, 0, 0, 0]])


def run(file: Path, given: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (declared,) = session.get_inputs()
    assert declared.shape == ["batch", *given.shape[1:]]
    return torch.from_numpy(session.run(None, {declared.name: given.numpy()})[0])


def assert_onnx_agrees(model: Model, directory: Path, x: torch.Tensor, tokens: torch.Tensor | None = None) -> None:
    with torch.no_grad():
        visual = model.visual if tokens is not None else model
        torch.testing.assert_close(run(directory / "image.onnx", x), visual(x), rtol=1e-4, atol=1e-4)
        if tokens is not None:
            torch.testing.assert_close(run(directory / "text.onnx", tokens), model.text(tokens), rtol=1e-4, atol=1e-4)


def test_onnx_of_two_towers(tmp_path: Path) -> None:
    model, directory = small_clip(), tmp_path / "new" / "model"
    differences = write_onnx(model, directory, size=(16, 40))
    assert differences.keys() == {"image", "text"}
    assert max(differences.values()) < 1e-5
    assert sorted(path.name for path in directory.iterdir()) == ["image.onnx", "text.onnx"]
    for batch in (1, 2, 3):
        assert_onnx_agrees(model, directory, random_images(batch, 3, 16, 40), TEXTS[:batch])
    (tmp_path / "plain").mkdir()
    assert directory.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert [path.name for path in directory.parent.iterdir()] == ["model"]
    assert not any(b".py" in path.read_bytes() for path in directory.iterdir()), "paths of this machine"


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_onnx_of_every_kind_of_tower_and_the_model_after_it(config: VisionConfig, tmp_path: Path) -> None:
    tower, x = small_tower(config), random_images(3, 3, 24, 48)
    assert write_onnx(tower, tmp_path / "model", size=(24, 48)).keys() == {"image"}
    assert_onnx_agrees(tower, tmp_path / "model", x)
    tower(x).sum().backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())


def test_large_weights_lie_beside_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "EXTERNAL_BYTES", 1000)
    tower = small_tower(SHALLOW)
    assert max(write_onnx(tower, tmp_path / "model").values()) < 1e-5
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"image.onnx", "image.onnx.data"}
    assert_onnx_agrees(tower, tmp_path / "model", random_images(2, 3, 32, 32))


def test_a_file_that_differs_from_torch_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *_: [np.zeros((3, 17, 32), dtype=np.float32)])
    with pytest.raises(OutputError, match=r"image\.onnx differs from torch by 1\.0"):
        write_onnx(small_tower(SHALLOW), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", full)
    with pytest.raises(OutputError, match="No space left on device"):
        write_onnx(small_tower(SHALLOW), tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    for place in (tmp_path / "model", tmp_path / "model" / "mine"):
        with pytest.raises(OutputError, match="exists and is not empty"):
            write_onnx(small_tower(SHALLOW), place)
    with pytest.raises(ShapeError, match="33x32 is not a multiple"):
        write_onnx(small_tower(SHALLOW), tmp_path / "new", size=(33, 32))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingExtraError, match=rf"{missing} is not installed; run: pip install .*\[onnx\]"):
        write_onnx(small_clip(), tmp_path / "model", int8=fixed_inputs())
    assert list(tmp_path.iterdir()) == []
    if missing == "onnxruntime":  # not needed to write floats, only to check
        assert write_onnx(small_tower(SHALLOW), tmp_path / "model") == {"image": None}


def fixed_inputs() -> dict[str, torch.Tensor]:
    return {"image": random_images(4, 3, 32, 32), "text": TEXTS}


def quantize_small(directory: Path, monkeypatch: pytest.MonkeyPatch, limit: float = 0.9) -> dict[str, float | None]:
    monkeypatch.setattr(card, "LEAST_COSINE", limit)  # so few dimensions of random weights round badly
    return write_onnx(small_clip(), directory, int8=fixed_inputs())


@pytest.mark.parametrize("external", [False, True])
def test_int8_towers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, external: bool) -> None:
    if external:
        monkeypatch.setattr(export, "EXTERNAL_BYTES", 1000)
    cosines = quantize_small(tmp_path / "model", monkeypatch)
    assert all(0.98 < cosine < 1 for cosine in cosines.values())
    names = {"image.onnx", "text.onnx", *(("image.onnx.data", "text.onnx.data") if external else ())}
    assert {path.name for path in (tmp_path / "model").iterdir()} == names
    pixels = fixed_inputs()["image"]
    with torch.no_grad():
        expected = small_clip().visual(pixels)
    found = run(tmp_path / "model" / "image.onnx", pixels)
    cosine = torch.nn.functional.cosine_similarity(found, expected).min()
    assert float(cosine) == pytest.approx(cosines["image"], abs=1e-6)
    operators = {node.op_type for node in onnx.load(tmp_path / "model" / "image.onnx").graph.node}
    assert "MatMulInteger" in operators


def test_int8_that_differs_from_torch_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"image\.onnx in int8 has a cosine similarity of 0\.9\d+ with torch, below 1\.0; export it without int8"
    with pytest.raises(OutputError, match=message):
        quantize_small(tmp_path / "model", monkeypatch, limit=1.0)
    assert list(tmp_path.iterdir()) == []


def test_int8_products_fit_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """x86 CPUs without VNNI add two of them in 16 bits, with saturation."""
    quantize_small(tmp_path / "model", monkeypatch)
    for name in ("image.onnx", "text.onnx"):
        tensors = onnx.load(tmp_path / "model" / name).graph.initializer
        weights = [onnx.numpy_helper.to_array(t).astype(int) for t in tensors if t.data_type == onnx.TensorProto.INT8]
        assert weights and all(2 * 255 * abs(weight).max() < 2**15 for weight in weights)
