"""Heads as ONNX files give through onnxruntime what torch gives."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, HeadInfo, make_head
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.segmentation import SegmentationHeadConfig
from perception_encoder.errors import ShapeError
from perception_encoder.exports.onnx import export_head
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.tower import Tower

HEADS = {
    "depth": DepthHeadConfig(channels=8),
    "segmentation": SegmentationHeadConfig(kernel=3),
    "detection": DetectorHeadConfig(channels=8, hidden=16, regions=16),
}


def make(task: str, **changes: object) -> tuple[DenseModel, HeadInfo]:
    tower = Tower.of(create_model("builtin"))
    info = HeadInfo(
        task=task,
        encoder="random:builtin",
        weights=tower.weight_hash,
        layer=1,
        image_size=64,
        head=asdict(HEADS[task]) | changes,
        classes=("a", "b", "c"),
        masks=task == "detection",
    )
    torch.manual_seed(0)
    model = DenseModel(Backbone(tower, 1, frozen=True), make_head(info, 192)).eval().requires_grad_(False)
    if task == "depth":
        torch.nn.init.normal_(model.head.out[-1].weight, std=0.1)
    return model, info


def run(path: Path, images: torch.Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})


def images(count: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("task", ["depth", "segmentation"])
def test_maps(task: str, tmp_path: Path) -> None:
    model, info = make(task)
    difference = export_head(model, info, tmp_path / "head.onnx", (48, 64))
    assert difference is not None and difference < 1e-4
    (output,) = run(tmp_path / "head.onnx", images(3, (48, 64)))
    expected = model.head.predict(model.backbone(images(3, (48, 64))), (48, 64)).numpy()
    assert output.shape == (3, 48, 64) and np.allclose(output, expected, rtol=1e-3)
    about = onnxruntime.InferenceSession(tmp_path / "head.onnx").get_modelmeta().custom_metadata_map
    assert json.loads(about["head"])["task"] == task and about["weights"] == info.weights


@pytest.mark.parametrize("vitdet", [False, True])
def test_detections(vitdet: bool, tmp_path: Path) -> None:
    model, info = make("detection", vitdet=vitdet)
    difference = export_head(model, info, tmp_path / "head.onnx")
    assert difference is not None and difference < 1e-4
    boxes, labels, scores, masks = run(tmp_path / "head.onnx", images(1, (64, 64)))
    assert len(boxes) == len(labels) == len(scores) == len(masks) > 0 and masks.shape[1:] == (1, 28, 28)
    (detected,), _ = model.head(model.backbone(images(1, (64, 64))))
    assert np.allclose(np.sort(scores), np.sort(detected["scores"].numpy()), atol=1e-4)
    assert boxes.max() <= 64


def test_a_size_that_is_not_whole_patches(tmp_path: Path) -> None:
    model, info = make("depth")
    with pytest.raises(ShapeError, match="the size is 50x64"):
        export_head(model, replace(info), tmp_path / "head.onnx", (50, 64))
    assert not list(tmp_path.iterdir())
