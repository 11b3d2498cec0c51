"""The main commands once each, on a few small images: what `make test-lowest` runs with the oldest dependencies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import perception_encoder
from tests.clips import clip

pytestmark = pytest.mark.smoke
Pe = Callable[..., Any]


@pytest.fixture
def pe(run_pe: Pe) -> Pe:
    """Run `pe`; a status other than 0 fails the test with what it printed."""

    def run(*arguments: str | Path) -> Any:
        result = run_pe(*arguments)
        assert result.status == 0, result.stderr
        return result

    return run


@pytest.fixture
def media(tmp_path: Path) -> Path:
    """Directories of red, green and blue images, and a clip."""
    rng = np.random.default_rng(0)
    for name, colour in (("red", (220, 20, 20)), ("green", (20, 220, 20)), ("blue", (20, 20, 220))):
        (tmp_path / "media" / name).mkdir(parents=True)
        for number in range(4):
            noise = rng.integers(-20, 20, (40, 60, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            kind = ("png", "jpg", "webp", "gif")[number]
            Image.fromarray(pixels).save(tmp_path / "media" / name / f"{name}{number}.{kind}")
    (tmp_path / "clip.mp4").write_bytes(clip(30))
    return tmp_path / "media"


def test_index_and_search(media: Path, pe: Pe) -> None:
    pe("index", media, "-m", "builtin")
    found = json.loads(pe("search", "red", media, "--json", "--top", "99").stdout)
    assert len(found["queries"][0]["hits"]) == 12


@pytest.mark.parametrize("name", ["out.parquet", "out.lance", "out"])
def test_embed(name: str, media: Path, pe: Pe, tmp_path: Path) -> None:
    from perception_encoder.inference.output_formats import read_embeddings

    if name.endswith("lance"):
        pytest.importorskip("lancedb")
    pe("embed", media, tmp_path / "clip.mp4", "-m", "builtin", "-o", tmp_path / name)
    read = read_embeddings(tmp_path / name)
    assert read is not None and read[1].shape[0] == 13 and np.isfinite(read[1]).all()


def test_evaluate(media: Path, pe: Pe, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    shutil.copytree(media, tmp_path / "split" / "test")
    shutil.copytree(media, tmp_path / "split" / "train")
    for path in (tmp_path / "split" / "train").rglob("*.png"):
        path.unlink()
    pe("eval", "classification", "builtin", "--data", media, "--prompts", "name", "--transform", "squash")
    pe("eval", "knn", "builtin", "--data", tmp_path / "split", "--k", "1", "-o", tmp_path / "knn.json")
    assert json.loads((tmp_path / "knn.json").read_text())["scores"]


def test_heads(media: Path, pe: Pe, tmp_path: Path) -> None:
    pe("detect", media / "red" / "red0.png", "-o", tmp_path / "boxes")
    assert any((tmp_path / "boxes").rglob("*.json"))


def test_convert_and_export(tmp_path: Path) -> None:
    for module in ("timm", "onnxruntime", "onnxscript"):
        pytest.importorskip(module)
    from perception_encoder.exports.layouts import write_layout_directory
    from perception_encoder.exports.onnx import write_onnx
    from tests.models.small import small_clip, small_tower

    model = small_clip()
    model.name = "PE-Core-N16-128"
    write_layout_directory(model, tmp_path / "timm", "timm")
    encoder = perception_encoder.load(f"timm:local-dir:{tmp_path / 'timm'}")
    assert encoder.encode_images([Image.new("RGB", (40, 30))]).shape[0] == 1
    assert write_onnx(small_tower(), tmp_path / "onnx")["image"] is not None


def test_train_and_resume(media: Path, pe: Pe, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pe("train", "finetune", "--data", media, "-o", tmp_path / "run", "--debug", "--set", "initial=builtin")


def test_a_language_model(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from perception_encoder.preprocess.conversation import Sampling, ask
    from tests.tiny_language_models import tiny_language_model

    model = tiny_language_model()
    (reply,) = model.generate([ask("what?", [Image.new("RGB", (40, 30))])], Sampling(max_tokens=3))
    assert isinstance(reply.text, str)


def test_the_api(media: Path) -> None:
    pytest.importorskip("fastapi")
    import httpx

    from perception_encoder.inference.load import load
    from perception_encoder.serving.api import create_app
    from perception_encoder.serving.requests import ApiConfig
    from tests.serving.servers import served

    with served(create_app(load("builtin", "cpu"), ApiConfig())) as url:
        answer = httpx.post(f"{url}/v1/embeddings", json={"model": "builtin", "input": ["a red cup"]})
    assert answer.status_code == 200 and len(answer.json()["data"]) == 1
