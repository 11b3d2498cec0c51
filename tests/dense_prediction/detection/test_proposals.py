"""Proposals of a two-stage DETR: doubles go, and every level has its share."""

from __future__ import annotations

import torch

from perception_encoder.dense_prediction.detection.proposals import SMALLEST_ANCHOR, anchors, choose_proposals


def squares(*lefts: float) -> torch.Tensor:
    return torch.tensor([[left, 0.0, left + 0.1, 0.1] for left in lefts])


def test_doubles_of_a_level_are_one() -> None:
    boxes = squares(0.0, 0.001, 0.5, 0.0, 0.8)
    scores, levels = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.1]), torch.tensor([0, 0, 0, 1, 1])
    assert choose_proposals(boxes, scores, levels, 4).tolist() == [0, 2, 3, 4]


def test_every_level_has_its_share() -> None:
    boxes = squares(*(number / 10 for number in range(8)))
    scores, levels = torch.arange(8, 0, -1).float(), torch.tensor([0, 0, 0, 0, 0, 0, 1, 1])
    assert choose_proposals(boxes, scores, levels, 4).tolist() == [0, 1, 6, 7]
    assert choose_proposals(boxes, scores, levels, 5).tolist() == [0, 1, 2, 6, 7]  # the best others fill up


def test_too_few_that_differ_are_the_best() -> None:
    boxes = squares(0.0, 0.0, 0.0)
    scores, levels = torch.tensor([0.1, 0.3, 0.2]), torch.zeros(3, dtype=torch.int64)
    assert choose_proposals(boxes, scores, levels, 2).tolist() == [1, 2]
    assert sorted(choose_proposals(boxes, scores, levels, 9).tolist()) == [0, 1, 2]


def test_anchors_are_centred_on_patches() -> None:
    boxes = anchors([(1, 2), (1, 1)])[0]
    expected = [[0.25, 0.5, SMALLEST_ANCHOR, SMALLEST_ANCHOR], [0.75, 0.5, SMALLEST_ANCHOR, SMALLEST_ANCHOR]]
    assert torch.allclose(boxes, torch.tensor([*expected, [0.5, 0.5, 2 * SMALLEST_ANCHOR, 2 * SMALLEST_ANCHOR]]))
    half = anchors([(1, 2)], torch.tensor([[[1.0, 1.0]]]))[0]  # of an image that covers the first patch alone
    assert half[:, 0].tolist() == [0.5, 1.5]
