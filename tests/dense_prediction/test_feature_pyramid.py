"""The feature pyramid of one layer."""

from __future__ import annotations

import torch

from perception_encoder.dense_prediction.feature_pyramid import SimplePyramid


def test_the_pyramid_has_five_levels() -> None:
    pyramid = SimplePyramid(6, 4)
    assert [tuple(level.shape) for level in pyramid(torch.zeros(1, 8, 6, 6)).values()] == [
        (1, 4, 32, 24),
        (1, 4, 16, 12),
        (1, 4, 8, 6),
        (1, 4, 4, 3),
        (1, 4, 2, 2),
    ]
