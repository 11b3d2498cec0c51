"""The detector: targets at the encoded size, made batch by batch, and losses that fall."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig, _target, fit_detector
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.models.initialization import drawn_from
from tests.datasets.drawn import write_instances
from tests.evaluation.layers import ColourLayers

pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

SMALL = DetectionConfig(channels=16, hidden=32, regions=32, fit=FitConfig(epochs=1, batch=4))


def test_targets_and_what_is_found_go_to_the_encoded_size_and_back(tmp_path: Path) -> None:
    train, _ = read_instance_splits(write_instances(tmp_path, {"train": 1, "test": 1}))
    things = train.instances(0)
    target = _target(things, (48, 64), (96, 64))
    assert target["boxes"].numpy() == pytest.approx(things.boxes * [1, 2, 1, 2])
    assert (target["masks"].sum(dim=(1, 2)).numpy() == 2 * things.masks.sum(axis=(1, 2))).all()


def test_targets_are_made_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All masks of COCO at 1022 pixels would be 147 GB."""
    train, _ = read_instance_splits(write_instances(tmp_path, {"train": 6, "test": 1}))
    asked: list[int] = []
    things, seen = InstanceSet.instances, []
    monkeypatch.setattr(
        InstanceSet, "instances", lambda self, row, *rest: asked.append(row) or things(self, row, *rest)
    )

    def track(steps: Iterable[int], description: str, total: int | None = None) -> Iterator[int]:
        for step in steps:
            seen.append(len(asked))
            yield step

    fit = FitConfig(epochs=2, batch=2)
    fit_detector(np.zeros((3, 3, 4, 3)), train, np.array([4, 0, 2]), config=replace(SMALL, fit=fit), track=track)
    assert seen == [1, 3, 4, 6] and asked[0] == 4 and sorted(asked[1:4]) == [0, 2, 4]


def test_every_loss_falls_where_there_is_something_to_see(tmp_path: Path) -> None:
    """Losses on what was fitted, after a step at almost no rate and 80 at a rate."""
    train, _ = read_instance_splits(write_instances(tmp_path, {"train": 4, "test": 1}))
    maps = ColourLayers(8).encode_layers([train.open(n) for n in range(4)], [0], (48, 64))[0].patches
    encoded = (96, 128)
    targets = [_target(train.instances(n), (48, 64), encoded) for n in range(4)]
    losses = []
    for epochs, rate in ((1, 1e-12), (80, 2e-3)):
        fit = FitConfig(epochs=epochs, batch=4, lr=rate)
        config = DetectionConfig(channels=16, hidden=32, regions=16, fit=fit)
        detector = fit_detector(maps, train, np.arange(4), config=config).train()
        with torch.no_grad(), drawn_from(torch.Generator().manual_seed(0)):
            _, result = detector(torch.from_numpy(maps), targets)
        losses.append({name: float(value) for name, value in result.items()})
    before, after = losses
    assert len(after) == 5 and all(after[name] < before[name] for name in after)
    assert after["loss_classifier"] < before["loss_classifier"] / 3
    assert after["loss_objectness"] < before["loss_objectness"] / 3
