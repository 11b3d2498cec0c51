"""A model under both transforms, and a layer of a model of any library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.embeddings import load_variants
from perception_encoder.inference.load import load_layers
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from tests.models.external.samples import save_transformer


def test_crop_sees_the_middle_and_squash_all(tmp_path: Path) -> None:
    weights = tmp_path / "nano.safetensors"
    write_checkpoint(create_model("builtin"), weights)
    encoders, about = load_variants(str(weights), texts=True)
    wide = torch.rand(60, 180, 3, generator=torch.Generator().manual_seed(0)).mul(255).byte().numpy()
    squash, crop = (encoders[name].encode_images([wide]) for name in ("squash", "crop"))
    assert not np.allclose(squash, crop, atol=1e-3)
    np.testing.assert_allclose(crop, encoders["squash"].encode_images([wide[:, 60:120]]), atol=0.02)
    assert about["device"] in ("cpu", "cuda") and len(about["weights"]) == 16


@pytest.fixture
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (50, 70, 3), dtype=np.uint8)) for _ in range(35)]


def test_a_model_of_transformers_at_a_layer(tmp_path: Path, images: list[Image.Image]) -> None:
    save_transformer("ViT", tmp_path)
    name = f"hf:{tmp_path}"
    for layer, pool, taken in (
        (None, None, {"layer": "2", "pool": "mean"}),
        (-2, "cls", {"layer": "1", "pool": "cls"}),
    ):
        encoders, about = load_variants(name, "squash", layer, pool)
        at = int(taken["layer"])
        tokens = load_layers(name, final_norm=True).encode_layers(images, [at])[at]
        wanted = tokens.patches.mean(axis=(1, 2)) if taken["pool"] == "mean" else tokens.prefix[:, 0]
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
        vectors = encoders["squash"].encode_images(images)
        assert vectors.dtype == np.float32 and encoders["squash"].name == f"hf:{tmp_path.name}"
        np.testing.assert_allclose(vectors, wanted, atol=1e-2)
        assert about.items() >= taken.items() and len(about["weights"]) == 16 and "torch" in about


def test_a_model_of_timm_at_a_layer(images: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, **rest: create(name, **rest))
    as_it_is, _ = load_variants("timm:test_vit", "squash,crop", None, None)
    assert list(as_it_is) == ["squash", "crop"]  # its own output and transforms
    for name in ("timm:test_vit", "random:timm:test_vit"):
        encoders, about = load_variants(name, "squash", 1, None)
        assert encoders["squash"].encode_images(images[:2]).shape == (2, 64) and about["layer"] == "1"
    with pytest.raises(ConfigError, match="takes squashed images only; transform is 'crop'"):
        load_variants("timm:test_vit", "crop", 1, None)
    with pytest.raises(ConfigError, match="layer 6 does not exist; timm:test_vit has layers 0 to 5"):
        load_variants("timm:test_vit", "squash", 6, None)
    with pytest.raises(
        ConfigError, match="no pool 'attn' after layer 5: timm:test_vit has none; use mean, cls or tokens"
    ):
        load_variants("timm:test_vit", "squash", None, "attn")


@pytest.mark.parametrize("name", ["random:timm:test_vit", "random:builtin"])
def test_a_vision_tower_has_no_texts(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is a vision tower without a text tower"):
        load_variants(name, "squash", texts=True)
