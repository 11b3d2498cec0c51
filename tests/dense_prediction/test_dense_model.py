"""A head on a tower's layer, and its file; a bad field is named, and takes no memory."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save_file

from perception_encoder.dense_prediction import heads
from perception_encoder.dense_prediction.dense_model import (
    METADATA,
    Backbone,
    DenseModel,
    HeadInfo,
    load_dense_model,
    make_head,
    write_head,
)
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.heads import load_head
from perception_encoder.dense_prediction.segmentation import SegmentationHeadConfig
from perception_encoder.dense_prediction.vitdet import WindowConfig
from perception_encoder.dense_training.batches import Augmenter
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.tower import Tower
from perception_encoder.runtime.layer_towers import LayerTowers
from tests.dense_training.datasets import read_head

TOWER = Tower.of(create_model("builtin"))
HEADS = {
    "depth": DepthHeadConfig(channels=8),
    "segmentation": SegmentationHeadConfig(kernel=3),
    "detection": DetectorHeadConfig(channels=8, hidden=16, regions=16),
    "detr": DetrHeadConfig(channels=32, layers=1, hidden=16, queries=10),
}


def tower() -> Tower:
    return Tower.of(create_model("builtin"))


def info(**changes: object) -> HeadInfo:
    head = HeadInfo(
        task="depth",
        encoder="random:builtin",
        weights=TOWER.weight_hash,
        layer=2,
        image_size=64,
        head=asdict(HEADS["depth"]),
    )
    return replace(head, **changes)  # type: ignore[arg-type]


def model(**changes: object) -> DenseModel:
    backbone = Backbone(tower(), 2, frozen=True)
    torch.manual_seed(0)
    return DenseModel(backbone, make_head(info(**changes), backbone.width)).eval()


def image() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 80, 3), np.uint8))


def test_the_map_is_the_layers() -> None:
    maps = model().map_of(image(), 64)
    assert maps.shape == (1, 2, 4, 192)
    encoded = LayerFeatures(LayerTowers("own", tower(), "cpu", torch.float32)).encode_layers([image()], [2], (32, 64))
    assert np.allclose(maps.numpy(), encoded[2].patches, atol=1e-4)


@pytest.mark.parametrize("finetuned", [False, True])
def test_a_written_head_predicts_the_same(finetuned: bool, tmp_path: Path) -> None:
    dense = model()
    described = info(finetuned=finetuned)
    write_head(tmp_path / "head.safetensors", dense, described, half=False)
    read, tensors = read_head(tmp_path / "head.safetensors")
    assert read == described and any(name.startswith("backbone.") for name in tensors) == finetuned
    again = load_dense_model(tmp_path / "head.safetensors", read, tensors, tower())
    pixels = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(dense(pixels), again(pixels))


def test_heads_of_other_encoders_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    write_head(path, model(), info())
    read, tensors = read_head(path)
    other = Tower.of(create_model("builtin", generator=torch.Generator().manual_seed(5)))
    with pytest.raises(ConfigError, match="random:builtin, layer 2"):
        load_dense_model(path, read, tensors, other)
    with pytest.raises(CheckpointError, match="does not fit its own settings"):
        load_dense_model(path, info(head=asdict(DepthHeadConfig(channels=4))), tensors, tower())
    write_checkpoint(create_model("builtin"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a head file"):
        read_head(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="is a head for depth"):
        load_head(path, task="segmentation")
    with pytest.raises(ConfigError, match="a head for 'pose' is unknown"):
        make_head(info(task="pose"), 8)
    with pytest.raises(ConfigError, match="do not fit its task, depth"):
        make_head(info(head={"depth": 3}), 8)


def test_images_are_padded_with_the_same_pixel_as_in_training() -> None:
    """With ImageNet's mean it was 127 in training and the mean in tests."""
    other = replace(tower(), mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225))
    padded = DenseModel.of(info(padded=True), other).eval()
    small = image().resize((64, 32))
    trained, targets = Augmenter(64, (1.0, 1.0), 0, other.padding)(
        small, {"boxes": torch.tensor([[0.0, 0, 64, 32]]), "labels": torch.tensor([1])}, torch.Generator()
    )
    assert trained[:, 40, 40].tolist() == [124, 116, 104]
    with torch.no_grad():
        assert torch.allclose(padded.map_of(small, 64), padded.backbone(trained[None]), atol=1e-5)
    assert padded.valid_sizes(small.size, 64) == [(32, 64)] and targets["inside"].tolist() == [32, 64]
    assert padded.valid_sizes((100, 40), 64) == [(26, 64)]  # whole pixels, not whole patches


def test_inside_is_in_the_heads_pixels() -> None:
    windows = WindowConfig(size=2, global_blocks=(), patch_size=8)
    model = DenseModel.of(info(padded=True, windows=windows), tower()).eval()
    assert model.valid_sizes((64, 32), 64) == [(64, 128)]
    assert model.map_of(image().resize((64, 32)), 64).shape[1:3] == (8, 8)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The encoders that heads ask for; they get the built-in one's tower."""
    names: list[str] = []
    monkeypatch.setattr(heads, "load_tower", lambda name: names.append(name) or TOWER)
    return names


def write(path: Path, task: str = "depth") -> dict[str, Any]:
    """Write a head; return its description."""
    windows = WindowConfig(size=2, global_blocks=(1,)) if task == "detr" else None
    names = {"classes": ("a", "b"), "class_ids": (4, 9)}
    described = info(task=task, encoder="builtin", head=asdict(HEADS[task]), windows=windows, **names)
    write_head(path, DenseModel(Backbone(TOWER, 2, frozen=True), make_head(described, TOWER.width)), described)
    return json.loads(json.dumps(asdict(described)))


def rewrite(path: Path, description: str) -> None:
    save_file(load(path.read_bytes()), path, {METADATA: description})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_size", 10**9, "image_size is 1000000000; it must be from 1 to 4096"),
        ("image_size", "64", "image_size is '64'; expected an integer"),
        ("layer", -1, "layer is -1; it must be from 0"),
        ("layer", 12, "layer 12 does not exist; builtin has layers 0 to 11"),
        ("classes", 3, "classes is 3; expected a list"),
        ("class_ids", [1], "class_ids has 1 entries; there are 2 classes"),
        ("head", None, "head is None; expected an object"),
        ("head", {"channels": 8.5}, "do not fit its task, depth: channels is 8.5; expected an integer"),
        ("head", {"channels": 30_000}, r"head\.\S+ is \(8,\) in the file, and \(30000,\) by its settings"),
        ("head", {"nearest": None}, "do not fit its task, depth: nearest is None; expected a number"),
        ("windows", {"size": 2, "global_blocks": None}, r"windows\.global_blocks is None; expected a list"),
        ("windows", [], r"windows is \[\]; expected an object"),
        ("finetuned", "yes", "finetuned is 'yes'; expected true or false"),
        ("surprise", 1, "surprise is unknown; known: task, encoder, weights"),
        ("encoder", None, "encoder is None; expected a string"),
    ],
)
def test_a_bad_field_is_named(name: str, value: Any, message: str, opened: list[str], tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    description = write(path)
    rewrite(path, json.dumps({**description, name: value}))
    with pytest.raises(CheckpointError, match=rf"head\.safetensors[: ][^\n]*{message}"):
        load_head(path)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "[" * 100_000, '{"task": NaN}'])
def test_a_description_that_is_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    write(path)
    rewrite(path, text)
    with pytest.raises(CheckpointError, match="the description of the head is damaged"):
        load_head(path)


@pytest.mark.parametrize("encoder", ["timm:local-dir:/tmp/x", "hf:a/b", "open_clip:a,b", "/tmp/model.pt", "x"])
def test_a_file_names_only_encoders_of_this_package(encoder: str, opened: list[str], tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    description = write(path)
    rewrite(path, json.dumps({**description, "encoder": encoder}))
    with pytest.raises(ConfigError, match="which is not a model of this package"):
        load_head(path)
    assert not opened
    load_head(path, model=encoder)
    assert opened == [encoder]
