"""The feature pyramid of one layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from perception_encoder.dense_prediction.detection.detr import DetaPyramid
from perception_encoder.dense_prediction.detection.roi_heads import SimplePyramid


def test_the_pyramid_has_five_levels() -> None:
    pyramid = SimplePyramid(6, 4)
    assert [tuple(level.shape) for level in pyramid(torch.zeros(1, 8, 6, 6)).values()] == [
        (1, 4, 32, 24),
        (1, 4, 16, 12),
        (1, 4, 8, 6),
        (1, 4, 4, 3),
        (1, 4, 2, 2),
    ]


def test_detas_pyramid_has_five_levels() -> None:
    pyramid = DetaPyramid(6, 32)
    levels = pyramid(torch.rand(1, 8, 6, 6))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (32, 16, 12),
        (32, 8, 6),
        (32, 4, 3),
        (32, 2, 2),
        (32, 1, 1),
    ]
    assert pyramid.sizes((8, 6)) == [tuple(level.shape[-2:]) for level in levels]
    expected = F.conv2d(F.max_pool2d(torch.ones(1, 6, 4, 4), 2, 2), pyramid.project[3][0].weight, padding=1, stride=2)
    pyramid.project[3] = pyramid.project[3][0]
    assert torch.allclose(pyramid(torch.ones(1, 4, 4, 6))[3], expected, atol=1e-6)


def test_gradients_of_maps_of_one_patch() -> None:
    """In bfloat16 too, where torch's own padding reads foreign memory on some CPUs."""
    pyramid, gradients = DetaPyramid(64, 32), []
    for _ in range(20):
        pyramid.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            levels = pyramid(torch.ones(2, 1, 1, 64))
        torch.stack([level.float().square().sum() for level in levels]).sum().backward()
        gradients.append(torch.cat([parameter.grad.flatten() for parameter in pyramid.project[3].parameters()]))
        foreign = [torch.full((size,), torch.nan) for size in (64, 9216, 18432, 32768)]
        del foreign  # memory that the next pass is likely to get
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
