"""The federated loss by hand, the classes it draws, repeat factors, and detections by sigmoids."""

from __future__ import annotations

import math

import pytest
import torch

from perception_encoder.dense_prediction.detection.federated import class_frequencies, federated_loss, repeat_factors
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector, DetectorHeadConfig
from perception_encoder.models.initialization import drawn_from


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


def test_every_class_begins_with_a_low_score() -> None:
    torch.manual_seed(0)
    head = Detector(4, 3, False, DetectorHeadConfig(channels=8, hidden=16, regions=16, federated=2))
    bias = head.model.roi_heads.box_predictor.cls_score.bias
    assert bias.sigmoid().tolist() == pytest.approx([0.01] * 4)
    assert "model.roi_heads.class_weights" in head.state_dict()
