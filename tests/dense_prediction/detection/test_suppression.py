"""Doubles among detections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.detection.mask_rcnn import Detected
from perception_encoder.dense_prediction.detection.suppression import join_views, large, mirrored, suppress

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 9]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6])
LABELS = torch.tensor([1, 1, 1, 2])


def test_the_worse_of_two_of_one_class_is_dropped() -> None:
    rows, scores = suppress(BOXES, SCORES, LABELS, 0.7)
    assert rows.tolist() == [0, 2, 3] and scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert suppress(BOXES, SCORES, LABELS, 0.7, least=0.65)[0].tolist() == [0, 2]
    assert suppress(BOXES, SCORES, LABELS, 0.85)[0].tolist() == [0, 1, 2, 3]


def test_soft_suppression_lowers_scores_by_the_overlap() -> None:
    rows, scores = suppress(BOXES, SCORES, LABELS, 0.7, soft=True)
    assert rows.tolist() == [0, 2, 3, 1]
    assert scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.8 * 0.5 * (1 - 0.8**2)])
    rows, scores = suppress(BOXES, SCORES, LABELS, 0.85, soft=True)  # below the overlap nothing is lowered
    assert rows.tolist() == [0, 1, 2, 3] and scores.tolist() == pytest.approx(SCORES.tolist())
    assert len(suppress(BOXES[:0], SCORES[:0], LABELS[:0], 0.7, soft=True)[0]) == 0


def detected(*boxes: tuple[float, ...]) -> Detected:
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Detected(np.array(boxes, np.float32), np.ones(count, np.int64), scores, None)


def test_views_are_joined() -> None:
    joined = join_views([detected((0, 0, 10, 10), (20, 0, 30, 10)), detected((0, 0, 10, 9))], 0.6, False, 10)
    assert joined.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]
    assert len(join_views([detected((0, 0, 10, 10), (20, 0, 30, 10))], 0.6, False, 1).boxes) == 1


def test_large_objects_alone() -> None:
    found = large(detected((0, 0, 10, 10), (0, 0, 20, 5.1), (0, 0, 9, 9)), 10)
    assert found.boxes.tolist() == [pytest.approx([0, 0, 20, 5.1])] and found.scores.tolist() == pytest.approx([0.7])


def test_a_mirrored_image_is_turned_back() -> None:
    assert mirrored(detected((5, 1, 20, 9)), 100).boxes.tolist() == [[80, 1, 95, 9]]
    assert mirrored(mirrored(detected((5, 1, 20, 9)), 100), 100).boxes.tolist() == [[5, 1, 20, 9]]
