"""Any name gives the model of its library, with its weights or random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.inference.layer_encoder import TowerEncoder
from perception_encoder.inference.open_model import load_layer_encoder, open_model
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.tower import OwnTower
from tests.models.external.samples import SIZE, noise_images


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return noise_images()


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("builtin", "OwnModel", "builtin"),
        ("PE-Core-B-16", "OwnModel", "PE-Core-B16-224"),
        ("runs/best.safetensors", "OwnModel", "best"),
        ("random:builtin", "OwnModel", "random:builtin"),
        ("timm:test_vit", "TimmModel", "timm:test_vit"),
        ("random:timm:test_vit", "TimmModel", "random:timm:test_vit"),
        ("open_clip:ViT-B-32,openai", "OpenClipModel", "open_clip:ViT-B-32,openai"),
        ("hf:facebook/dinov2-base", "TransformersModel", "hf:facebook/dinov2-base"),
    ],
)
def test_a_name_tells_the_library(name: str, kind: str, shown: str) -> None:
    model = open_model(name)
    assert (type(model).__name__, model.name) == (kind, shown)


def test_a_file_of_a_vision_tower_alone_and_the_random_model_of_its_shape(
    tmp_path: Path, images: list[Image.Image]
) -> None:
    model = create_model("PE-Core-N16-128", generator=torch.Generator().manual_seed(5)).visual
    path = tmp_path / "nano_step1.safetensors"
    write_checkpoint(model, path)
    encoder = load_layer_encoder(path, "cpu", torch.float32)
    assert encoder.name == "nano_step1"
    wanted = TowerEncoder("same", OwnTower.of(model), "cpu", torch.float32).encode_layers(images, [5], SIZE)
    np.testing.assert_array_equal(encoder.encode_layers(images, [5], SIZE)[5].patches, wanted[5].patches)
    random = load_layer_encoder(f"random:{path}", "cpu", torch.float32)
    assert random.name == "random:nano_step1" and random.depth == encoder.depth
    assert random.about["weights"] != encoder.about["weights"]
    assert random.about == load_layer_encoder(f"random:{path}", "cpu", torch.float32).about
