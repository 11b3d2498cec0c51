"""Scores of a student: edges, and the area under the curve."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from perception_encoder.spatial_alignment.validation import area_under_curve, neighbours


def test_the_area_is_scikit_learns() -> None:
    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, 60).astype(np.float32)  # with ties
    positive = generator.random(60) < 0.3 + 0.05 * scores
    expected = roc_auc_score(positive, scores)
    assert area_under_curve(torch.from_numpy(scores), torch.from_numpy(positive)) == pytest.approx(expected)


def test_without_positives_there_is_no_area() -> None:
    assert np.isnan(area_under_curve(torch.rand(4), torch.zeros(4, dtype=torch.bool)))


def test_neighbours_are_compared_to_the_right_and_below() -> None:
    tokens = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [1.0, 1.0]])[None]  # rows (a, b), (c, d)
    half = 2**-0.5
    expected = torch.tensor([[0.0, half, 1.0, half]])  # ab, cd, ac, bd
    torch.testing.assert_close(neighbours(tokens, (2, 2)), expected)
