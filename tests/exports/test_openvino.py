"""A directory that OpenVINO alone can use: its own README's program gives what torch gives."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import ConfigError, ModelError, OutputError
from perception_encoder.exports import openvino as export
from perception_encoder.files import checksum
from perception_encoder.models.checkpoints.weights import create_model, load_model, write_checkpoint
from perception_encoder.models.precision import TOLERANCE
from perception_encoder.preprocess.image import image_transform
from perception_encoder.preprocess.tokenizer import tokenizer
from perception_encoder.runtime import convert, quantization
from perception_encoder.vectors import unit_rows

pytest.importorskip("openvino")

TEXTS = ["a photo of a cat", "a photo of a dog"]
FOREIGN = """
np.savez("found.npz", **{name: globals()[name] for name in ("image_vectors", "text_vectors") if name in globals()})
import sys
print([name for name in ("torch", "perception_encoder", "transformers") if name in sys.modules])
"""


def program(directory: Path) -> str:
    """The program that README.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", (directory / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def run_program(directory: Path) -> dict[str, np.ndarray]:
    image = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(image).save(directory / "image.jpg")
    command = [sys.executable, "-c", program(directory) + FOREIGN]
    known = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}  # hides what it needs
    run = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, env=known)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
    with np.load(directory / "found.npz") as arrays:
        return dict(arrays)


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_the_program_in_the_readme_needs_nothing_of_ours_and_gives_the_same(precision: str, tmp_path: Path) -> None:
    directory, int8 = tmp_path / "new" / "out", precision == "int8"
    if int8:
        pytest.importorskip("nncf")
    files = pe.export_openvino("builtin", directory, precision=precision)
    limit = 0.02 if int8 else TOLERANCE[precision]
    assert all((file.cosine is not None and file.cosine >= 0.999) == int8 for file in files)
    assert [Path(file.path) for file in files] == [directory / "image.xml", directory / "text.xml"]
    assert {file.model for file in files} == {"builtin"}
    assert all(0 < file.difference <= limit and file.precision == precision for file in files)
    sums = dict(reversed(line.split()) for line in (directory / "SHA256SUMS").read_text().splitlines())
    names = {"image.xml", "image.bin", "text.xml", "text.bin", "tokenizer.json", "preprocessor_config.json"}
    assert sums.keys() == names | {"README.md"}
    assert {path.name for path in directory.iterdir()} == sums.keys() | {"SHA256SUMS"}
    assert all(checksum(directory / name) == value for name, value in sums.items())
    assert "Apache-2.0" in (directory / "README.md").read_text()
    assert [path.name for path in directory.parent.iterdir()] == ["out"]

    found, model = run_program(directory), load_model("builtin")
    with Image.open(directory / "image.jpg") as image:
        pixels = image_transform(model)(image)
    for name, outputs in (
        ("image_vectors", model.visual(pixels[None])),
        ("text_vectors", model.text(tokenizer(model)(TEXTS))),
    ):
        expected = unit_rows(outputs.numpy())
        assert np.abs(found[name] - expected).max() <= limit
        assert (found[name] * expected).sum(axis=1).min() >= (0.998 if int8 else 0.9999)


def test_a_model_without_texts_or_pooling_of_another_size(run_pe: Callable, tmp_path: Path) -> None:
    run = run_pe("export", "openvino", "builtin-spatial", tmp_path / "out", "--size", "32x64")
    assert run.status == 0 and run.stdout.startswith(f"{tmp_path / 'out' / 'image.xml'}: builtin-spatial in float32")
    assert not (tmp_path / "out" / "text.xml").exists() and not (tmp_path / "out" / "tokenizer.json").exists()
    config = load_model("builtin-spatial").config
    tokens = 32 * 64 // config.patch_size**2 + config.class_token
    assert run_program(tmp_path / "out")["image_vectors"].shape == (1, tokens, config.width)


def test_int8_that_loses_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")
    with pytest.raises(ConfigError, match="lose too much in int8"):
        pe.export_openvino("builtin-spatial", tmp_path / "out", precision="int8")
    monkeypatch.setattr(quantization, "LEAST_COSINE", 1.0)
    message = r"its image tower stays in bfloat16; in int8: minimum cosine to float32 0\.99.*; export it in bfloat16$"
    with pytest.raises(OutputError, match=message):
        pe.export_openvino("builtin", tmp_path / "out", precision="int8")
    assert list(tmp_path.iterdir()) == []


def test_bad_weights_and_differences_are_refused_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model("builtin")
    with torch.no_grad():
        model.visual.conv1.weight[0] = torch.nan
    write_checkpoint(model, tmp_path / "bad.safetensors", half=True)
    with pytest.raises(ModelError, match="its weights are bad"):
        pe.export_openvino(tmp_path / "bad.safetensors", tmp_path / "out")
    monkeypatch.setattr(convert, "TOLERANCE", {"float32": 0.0})
    with pytest.raises(ModelError, match="OpenVINO differs from torch by"):
        pe.export_openvino("builtin", tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(export, "AGREEMENT", {"float32": -1.0})
    with pytest.raises(OutputError, match=r"image\.xml does not give what it gave"):
        pe.export_openvino("builtin", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.safetensors"]
