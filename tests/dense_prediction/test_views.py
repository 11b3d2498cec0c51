"""Detections in several views of an image."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, HeadInfo, make_head
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.heads import Views, detect_objects
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.tower import Tower


def model(task: str = "detr") -> DenseModel:
    tower = Tower.of(create_model("builtin"))
    config = DetrHeadConfig(channels=32, layers=1, hidden=16, queries=10, least_score=0.0)
    head = asdict(config) if task == "detr" else asdict(DepthHeadConfig(channels=8))
    info = HeadInfo(task=task, encoder="builtin", weights="", layer=1, image_size=64, head=head, classes=("a", "b"))
    torch.manual_seed(0)
    return DenseModel(Backbone(tower, 1, frozen=True), make_head(info, 192)).eval()


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


def test_every_view_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds the brightest column of patches, in all scales and mirrored."""
    detector, sizes = model(), []

    def see(
        features: torch.Tensor, stored: list[tuple[int, int]], valid_sizes: None, soft: float | None, queries: None
    ) -> list[Detected]:
        sizes.append(tuple(features.shape[1:3]))
        left = 10.0 if len(sizes) % 2 else 40.0  # the second view of each scale is mirrored
        return [
            Detected(np.array([[left, 0, left + 14, 20]], np.float32), np.array([1]), np.array([0.5], np.float32), None)
        ]

    monkeypatch.setattr(detector.head, "detect", see)
    joined = detect_objects(detector, IMAGE, 64, Views(scales=(1.0, 2.0), flip=True))
    assert sizes == [(3, 4), (3, 4), (6, 8), (6, 8)]
    assert joined.boxes.tolist() == [[10, 0, 24, 20]]
    soft = detect_objects(detector, IMAGE, 64, Views(scales=(1.0, 2.0), soft=0.5))
    assert len(soft.boxes) == 2 and soft.scores[0] == 0.5


def test_the_papers_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 1792, 1728, 1536 and 1344 px, mirrored too; small objects count at the two larger scales alone."""
    detector, seen = model(), []

    def see(
        features: torch.Tensor, stored: list[tuple[int, int]], valid_sizes: None, soft: float, queries: int | None
    ) -> list[Detected]:
        seen.append((features.shape[2] * 16, soft, queries))
        boxes = np.array([[0, 0, 60, 60], [100, 100, 200, 170]], np.float32)
        scores = np.array([0.9, 0.1], np.float32) - 0.001 * np.float32(len(seen))
        return [Detected(boxes + 300 * len(seen), np.array([1, 1]), scores, None)]

    monkeypatch.setattr(detector.head, "detect", see)
    monkeypatch.setattr(detector, "map_of", lambda image, side: torch.zeros(1, side // 16, side // 16, 1))
    found = detect_objects(detector, IMAGE, 1792, Views.paper())
    assert seen == [(side, 0.4, 2000) for side in (1792, 1728, 1536, 1344) for _ in range(2)]
    small = found.boxes[found.scores > 0.5]
    assert len(small) == 4 and len(found.boxes) == 12
    assert detect_objects(detector, IMAGE, 1792, Views(least=(64,))).scores.max() < 0.2


def test_bad_views_and_heads() -> None:
    with pytest.raises(ConfigError, match=r"scales are \[\]; at least one is needed"):
        Views(scales=())
    with pytest.raises(ConfigError, match="a DepthHead cannot detect objects"):
        detect_objects(model("depth"), IMAGE, 64)
