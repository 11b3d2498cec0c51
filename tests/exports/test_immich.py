"""immich's service can load an exported model: its files are read here as that service reads them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers
import torch
from PIL import Image

import perception_encoder as pe
from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.models.initialization import initialize
from perception_encoder.models.registry import find_model


def run(folder: Path, name: str, values: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(None, {name: values})[0][0]


def small_model(directory: Path, dimension: int) -> tuple[Path, Encoder]:
    """A checkpoint with vectors of some length, and its encoder."""
    entry = find_model("PE-Core-N16-128")
    assert entry.text is not None
    towers = replace(entry.vision, output_dim=dimension), replace(entry.text, output_dim=dimension)
    model = CLIP(*towers, name=entry.name)
    initialize(model, torch.Generator().manual_seed(0))
    write_checkpoint(model.eval(), path := directory / "model.safetensors")
    return path, Encoder.of(model, "cpu", torch.float32)


@pytest.mark.filterwarnings("ignore::perception_encoder.preprocess.tokenizer.TruncationWarning")
def test_the_service_computes_the_same_embeddings(tmp_path: Path) -> None:
    out, (model, encoder) = tmp_path / "clip" / "ViT-B-32__openai", small_model(tmp_path, 512)
    files = pe.export_immich(model, out)
    assert [Path(file.path).relative_to(out).as_posix() for file in files] == [
        "visual/model.onnx",
        "textual/model.onnx",
    ]
    assert all(file.difference is not None and file.difference < 1e-4 for file in files)

    preprocessing = json.loads((out / "visual" / "preprocess_cfg.json").read_text())
    assert preprocessing["resize_mode"] == "squash" and preprocessing["interpolation"] == "bilinear"
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8))
    squashed = np.asarray(image.resize(preprocessing["size"], Image.Resampling.BILINEAR), np.float32) / 255
    pixels = (squashed - np.array(preprocessing["mean"], np.float32)) / np.array(preprocessing["std"], np.float32)
    found = run(out / "visual", "image", pixels.transpose(2, 0, 1)[None])
    np.testing.assert_allclose(found, encoder.encode_images(image), atol=1e-5)

    length = json.loads((out / "config.json").read_text())["text_cfg"]["context_length"]
    padding = json.loads((out / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=length, pad_token=padding, pad_id=tokenizer.token_to_id(padding))
    tokenizer.enable_truncation(max_length=length)
    for text in ("a red mug!", "x", "a very long text " * 40):
        found = run(out / "textual", "text", np.array([tokenizer.encode(text).ids], np.int32))
        np.testing.assert_allclose(found, encoder.encode_texts(text), atol=1e-5)
    with pytest.raises(OutputError, match="exists and is not empty"):
        pe.export_immich(model, out)


@pytest.mark.parametrize(
    ("dimension", "name", "reason"),
    [
        (256, "ViT-B-32__openai", "has vectors of 256 numbers; immich has names for .* 512 and 1024"),
        (512, "ViT-L-16-SigLIP2-384__webli", "has vectors of 512 numbers; name the directory ViT-B-32__openai"),
        (1024, "ViT-B-32__openai", "has vectors of 1024 numbers; name the directory ViT-L-16-SigLIP2-384__webli"),
    ],
)
def test_a_name_has_a_size(tmp_path: Path, dimension: int, name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        pe.export_immich(small_model(tmp_path, dimension)[0], tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_tower_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="immich needs a Core model"):
        pe.export_immich("builtin-spatial", tmp_path / "out")
    assert not (tmp_path / "out").exists()
