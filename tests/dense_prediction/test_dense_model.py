"""A head on a tower's layer, and its file."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.dense_prediction.dense_model import (
    Backbone,
    DenseModel,
    HeadInfo,
    WindowConfig,
    load_dense_model,
    make_head,
    padded_inputs,
    padding_pixel,
    read_head_info,
    write_head,
)
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_training.batches import Augmenter
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.tower import Tower


def tower() -> Tower:
    return Tower.of(create_model("builtin"))


def info(**changes: object) -> HeadInfo:
    head = HeadInfo(
        task="depth",
        encoder="random:builtin",
        weights=tower().weight_hash,
        layer=2,
        image_size=64,
        head=asdict(DepthHeadConfig(channels=8)),
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
    encoded = LayerFeatures("own", tower(), "cpu", torch.float32).encode_layers([image()], [2], (32, 64))
    assert np.allclose(maps.numpy(), encoded[2].patches, atol=1e-4)


def test_a_frozen_tower_stays_in_eval_mode() -> None:
    dense = model().train()
    assert dense.head.training and not dense.backbone.model.training
    assert not any(parameter.requires_grad for parameter in dense.backbone.parameters())


@pytest.mark.parametrize("finetuned", [False, True])
def test_a_written_head_predicts_the_same(finetuned: bool, tmp_path: Path) -> None:
    dense = model()
    described = info(finetuned=finetuned)
    write_head(tmp_path / "head.safetensors", dense, described, half=False)
    read, tensors = read_head_info(tmp_path / "head.safetensors")
    assert read == described and any(name.startswith("backbone.") for name in tensors) == finetuned
    again = load_dense_model(tmp_path / "head.safetensors", read, tensors, tower())
    pixels = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(dense(pixels), again(pixels))


def test_heads_of_other_encoders_and_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    write_head(path, model(), info())
    read, tensors = read_head_info(path)
    other = Tower.of(create_model("builtin", generator=torch.Generator().manual_seed(5)))
    with pytest.raises(ConfigError, match="belongs to random:builtin, layer 2, with weights"):
        load_dense_model(path, read, tensors, other)
    with pytest.raises(CheckpointError, match="does not fit its own settings"):
        load_dense_model(path, info(head=asdict(DepthHeadConfig(channels=4))), tensors, tower())
    write_checkpoint(create_model("builtin"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="is not a head file"):
        read_head_info(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="is a head for depth, not for segmentation"):
        read_head_info(path, "segmentation")
    assert read_head_info(path, "depth")[0] == read
    write_head(tmp_path / "detr.safetensors", model(), info(task="detr"))
    assert read_head_info(tmp_path / "detr.safetensors", "detection")[0].task == "detr"
    with pytest.raises(ConfigError, match="a head for 'pose' is unknown; known: depth, segmentation, detection"):
        make_head(info(task="pose"), 8)
    with pytest.raises(ConfigError, match="the head's settings do not fit its task, depth"):
        make_head(info(head={"depth": 3}), 8)


class Other(Tower):
    """A tower that is normalised as those of other libraries are."""


def test_images_are_padded_with_the_same_pixel_as_in_training() -> None:
    """With ImageNet's mean it was 127 in training and the mean in tests."""
    base = tower()
    other = Other(**{**vars(base), "mean": (0.485, 0.456, 0.406), "deviation": (0.229, 0.224, 0.225)})
    described = info(padded=True)
    backbone = Backbone(other, 2, True, None, 64, padded_inputs(described, other))
    padded = DenseModel(backbone, make_head(described, backbone.width)).eval()
    small = image().resize((64, 32))
    trained, targets = Augmenter(64, (1.0, 1.0), 0, padding_pixel(other))(
        small, {"boxes": torch.tensor([[0.0, 0, 64, 32]]), "labels": torch.tensor([1])}, torch.Generator()
    )
    assert trained[:, 40, 40].tolist() == [124, 116, 104]
    with torch.no_grad():
        assert torch.allclose(padded.map_of(small, 64), backbone(trained[None]), atol=1e-5)
    assert padded.valid_sizes(small.size, 64) == [(32, 64)] and targets["inside"].tolist() == [32, 64]
    assert padded.valid_sizes((100, 40), 64) == [(26, 64)]  # whole pixels, not whole patches


def test_inside_is_in_the_heads_pixels() -> None:
    windows = WindowConfig(size=2, global_blocks=(), patch_size=8)
    described = info(padded=True, windows=windows)
    backbone = Backbone(tower(), 2, True, windows, 64, padded_inputs(described, tower()))
    model = DenseModel(backbone, make_head(described, backbone.width)).eval()
    assert model.valid_sizes((64, 32), 64) == [(64, 128)]
    assert model.map_of(image().resize((64, 32)), 64).shape[1:3] == (8, 8)
