"""Mask R-CNN: its pyramid and targets; ViTDet's heads: anchors, aligned regions, a detector that learns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import roi_align

from perception_encoder.datasets.instances import InstanceSet, read_instance_splits
from perception_encoder.dense_prediction.detection.mask_rcnn import (
    DetectionConfig,
    Detector,
    DetectorHeadConfig,
    _target,
    fit_detector,
)
from perception_encoder.dense_prediction.detection.roi_heads import (
    aligned_pooling,
    class_frequencies,
    exact_anchors,
    federated_loss,
    l1_box_loss,
    repeat_factors,
)
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.models.initialization import drawn_from
from tests.datasets.drawn import write_instances


def test_anchors_are_not_rounded() -> None:
    """As detectron2's: of the size's area, of heights half, once and twice the widths."""
    anchors = exact_anchors(32)
    sides = anchors[:, 2:] - anchors[:, :2]
    assert torch.allclose(sides[:, 1] / sides[:, 0], torch.tensor([0.5, 1.0, 2.0]))
    assert torch.allclose(sides.prod(dim=1), torch.full((3,), 1024.0)) and torch.allclose(
        anchors[:, :2], -anchors[:, 2:]
    )
    assert anchors[0].tolist() == pytest.approx([-22.627417, -11.313708, 22.627417, 11.313708])


def test_regions_are_aligned_to_the_centres_of_pixels() -> None:
    """A map of its own columns: the mean of a region is the column of its middle, half a pixel before its edge."""
    columns = torch.arange(16.0).expand(1, 1, 16, 16)
    maps = {str(level): columns[..., : 16 >> level, : 16 >> level].contiguous() for level in range(4)}
    pooled = aligned_pooling(["0", "1", "2", "3"], 2)(maps, [torch.tensor([[16.0, 16, 32, 32]])], [(64, 64)])
    assert pooled.shape == (1, 1, 2, 2)
    assert pooled[0, 0, 0].tolist() == pytest.approx([4.5, 6.5])  # patches 4 to 8, of 4 pixels


def test_regions_are_pooled_from_the_level_of_their_size() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = {str(level): torch.randn(2, 3, 64 >> level, 64 >> level, generator=generator) for level in range(4)}
    boxes = [torch.tensor([[0.0, 0, 20, 20], [0, 0, 250, 250], [3, 3, 120, 130]]), torch.tensor([[0.0, 0, 230, 220]])]
    pooled = aligned_pooling(["0", "1", "2", "3"], 7)(maps, boxes, [(256, 256)] * 2)
    regions = ((0, boxes[0][0], 0), (0, boxes[0][1], 2), (0, boxes[0][2], 1), (1, boxes[1][0], 2))
    for item, (image, box, level) in zip(pooled, regions, strict=True):
        region = torch.tensor([[float(image), *box.tolist()]])
        assert torch.equal(item, roi_align(maps[str(level)], region, 7, 1 / (4 << level), -1, aligned=True)[0])
    assert aligned_pooling(["0"], 7)({"0": maps["0"]}, [torch.zeros(0, 4)] * 2, []).shape == (0, 3, 7, 7)


@pytest.mark.parametrize("federated", [None, 2])
def test_both_stages_learn_boxes_by_l1(federated: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = DetectorHeadConfig(vitdet=True, channels=8, hidden=16, regions=16, federated=federated)
    head = Detector(16, 2, False, config).train()
    target = {"boxes": torch.tensor([[20.0, 10, 60, 50]]), "labels": torch.tensor([2])}
    features = torch.randn(1, 4, 6, 16, generator=torch.Generator().manual_seed(0))
    seen = []
    choose = head.model.roi_heads.select_training_samples
    monkeypatch.setattr(
        head.model.roi_heads, "select_training_samples", lambda *each: seen.append(choose(*each)) or seen[-1]
    )
    outputs = []
    head.model.roi_heads.box_predictor.register_forward_hook(lambda module, given, made: outputs.append(made[1]))
    _, losses = head(features, [target])
    expected = l1_box_loss(outputs[0], torch.cat(seen[0][2]), torch.cat(seen[0][3]))
    assert losses["loss_box_reg"].item() == pytest.approx(expected.item()) and expected > 0
    assert head.model.rpn._post_nms_top_n == {"training": 1000, "testing": 1000}
    rpn = head.model.rpn
    monkeypatch.setattr(rpn, "fg_bg_sampler", lambda labels: ([labels[0] > 0], [labels[0] == 0]))
    deltas, wanted = torch.tensor([[0.05, 0, 0, 0], [9, 9, 9, 9]]), torch.tensor([[0.0, 0.1, 0, 0], [0.0] * 4])
    scores, boxes = rpn.compute_loss(torch.zeros(2, 1), deltas, [torch.tensor([1.0, 0.0])], [wanted])
    assert (scores.item(), boxes.item()) == pytest.approx((0.693147, 0.15 / 2))


def test_an_image_is_learned() -> None:
    torch.manual_seed(0)
    head = Detector(16, 2, True, DetectorHeadConfig(vitdet=True, channels=16, hidden=32, regions=32)).train()
    features = torch.randn(1, 4, 6, 16, generator=torch.Generator().manual_seed(0))
    masks = torch.zeros(1, 64, 96, dtype=torch.uint8)
    masks[:, 10:50, 20:60] = 1
    target = {"boxes": torch.tensor([[20.0, 10, 60, 50]]), "labels": torch.tensor([2]), "masks": masks}
    optimizer = torch.optim.AdamW(head.parameters(), 2e-3)
    for _ in range(60):
        loss = sum(head(features, [target])[1].values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    (found,) = head.eval().detect(features, [(64, 96)])
    assert found.labels[0] == 2 and found.boxes[0] == pytest.approx([20, 10, 60, 50], abs=6) and found.scores[0] > 0.5
    assert found.masks is not None and (found.masks[0] == (masks[0].numpy() > 0)).mean() > 0.9


def test_an_image_that_does_not_fill_its_map() -> None:
    torch.manual_seed(0)
    head = Detector(16, 2, True, DetectorHeadConfig(vitdet=True, channels=8, hidden=16, least_score=0.0)).eval()
    features = torch.randn(1, 4, 6, 16)
    (whole,), (part,) = head.detect(features, [(64, 96)]), head.detect(features, [(200, 100)], [(64, 32)])
    assert whole.boxes[:, 2].max() > 40 and len(part.boxes) > 3
    assert part.boxes[:, 2].max() <= 100 and part.boxes[:, 3].max() <= 200


def test_only_classes_that_are_shown_are_learned_from() -> None:
    logits = torch.tensor([[9.0, 1.0, -2.0, 5.0], [9.0, 0.5, 3.0, 5.0]])
    labels = torch.tensor([0, 2])  # background, and the second class
    expected = math.log1p(math.exp(-2.0)) + math.log1p(math.exp(-3.0))  # of the second class alone
    assert federated_loss(logits, labels, torch.ones(3), 1).item() == pytest.approx(expected / 2, rel=1e-5)


def test_others_are_drawn_by_their_weights() -> None:
    logits, labels = torch.zeros(1, 4), torch.tensor([1])
    log_two = math.log(2)
    with drawn_from(torch.Generator().manual_seed(0)):
        assert federated_loss(logits, labels, torch.tensor([1.0, 0, 1]), 2).item() == pytest.approx(2 * log_two)
        assert federated_loss(logits, labels, torch.tensor([1.0, 0, 0]), 3).item() == pytest.approx(log_two)
    logits = torch.zeros(1, 4)
    logits[0, 3] = 3.0
    shares = []
    with drawn_from(torch.Generator().manual_seed(0)):
        for _ in range(300):
            loss = federated_loss(logits, labels, torch.tensor([1.0, 3.0, 1.0]), 2).item()
            shares.append(loss > 2 * log_two + 0.1)  # the third class, not the second, was drawn
    assert sum(shares) / 300 == pytest.approx(0.25, abs=0.08)


def test_repeat_factors_are_those_of_the_rarest_class() -> None:
    labels = [torch.tensor([1, 1]), torch.tensor([1, 2]), torch.tensor([1]), torch.tensor([], dtype=torch.int64)]
    frequencies = class_frequencies(labels, 3)
    assert frequencies.tolist() == [0.75, 0.25, 0]
    assert repeat_factors(labels, frequencies, 1.0).tolist() == pytest.approx(
        [math.sqrt(4 / 3), 2, math.sqrt(4 / 3), 1]
    )
    assert repeat_factors(labels, frequencies, 0.2).tolist() == [1, 1, 1, 1]


def test_a_region_may_be_of_several_classes() -> None:
    torch.manual_seed(0)
    config = DetectorHeadConfig(channels=8, hidden=16, regions=16, federated=2, least_score=0.3)
    heads = Detector(4, 3, False, config).eval().model.roi_heads
    logits = torch.tensor([[5.0, 2.0, 1.0, -4.0], [5.0, -3.0, -3.0, 0.0]])
    proposals = [torch.tensor([[0.0, 0, 10, 10], [20, 20, 40, 40]])]
    boxes, scores, labels = heads.postprocess_detections(logits, torch.zeros(2, 16), proposals, [(64, 64)])
    assert labels[0].tolist() == [1, 2, 3]
    assert scores[0].tolist() == pytest.approx(torch.tensor([2.0, 1.0, 0.0]).sigmoid().tolist())
    assert boxes[0].tolist() == [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 40, 40]]


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
