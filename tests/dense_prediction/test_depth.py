"""The depth head: its loss, its grids, its config."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.depth import DepthConfig, DepthHead, scale_invariant_loss
from perception_encoder.errors import ConfigError, DataError


def test_the_loss_forgives_a_common_error_in_scale() -> None:
    target = torch.tensor([[[1.0, 2.0, 0.0]]])
    twice = torch.log(2 * target.clamp_min(1e-3))
    strict, lenient = DepthConfig(scale_invariance=0.0), DepthConfig(scale_invariance=1.0)
    assert float(scale_invariant_loss(twice, target, strict)) == pytest.approx(np.log(2), abs=1e-3)
    assert float(scale_invariant_loss(twice, target, lenient)) == pytest.approx(1e-3, abs=1e-3)


def test_holes_in_depth_are_not_learned_from() -> None:
    """Zeros, NaN, infinity and depths out of the range neither count nor spoil a gradient."""
    config = DepthConfig()
    predicted = torch.zeros(2, 1, 6, requires_grad=True)
    target = torch.tensor([[[2.0, 0.0, torch.nan, torch.inf, -1.0, 99.0]], [[0.0, torch.nan, 0.0, 0.0, 0.0, 0.0]]])
    loss = scale_invariant_loss(predicted, target, config)
    alone = scale_invariant_loss(torch.zeros(1, 1, 1), torch.tensor([[[2.0]]]), config)
    assert loss.item() == pytest.approx((alone.item() + 1e-3) / 2, rel=1e-4)
    loss.backward()
    assert torch.isfinite(predicted.grad).all() and predicted.grad[0, 0, 0] < 0
    assert predicted.grad.count_nonzero() == 1
    head = DepthHead(4, config)
    head.begin_with(target[:, 0])
    assert head.out[-1].bias.item() == pytest.approx(np.log(2))
    with pytest.raises(DataError, match=r"no training image has a depth of 0\.001 to 10 m"):
        head.begin_with(target[1:, 0])


def test_the_head_takes_any_grid() -> None:
    for grid in ((1, 1), (5, 7), (8, 8)):
        head = DepthHead(6, DepthConfig(channels=8))
        assert head.predict(torch.zeros(2, *grid, 6), (31, 17)).shape == (2, 31, 17)


@pytest.mark.parametrize(
    "changes",
    [
        {"nearest": 2.0, "farthest": 1.0},
        {"nearest": 1.0, "farthest": 1.0},
        {"nearest": 0.0},
        {"channels": 3},
        {"scale_invariance": -0.1},
        {"scale_invariance": 1.1},
    ],
)
def test_sizes_and_ranges_that_make_no_sense(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="0 < nearest < farthest"):
        DepthConfig(**changes)


def test_the_ends_of_what_is_allowed() -> None:
    """The least channels, all or nothing of a scale forgiven; a depth at an end of the range is outside it."""
    config = DepthConfig(channels=4, scale_invariance=1.0, nearest=1.0, farthest=2.0)
    assert DepthConfig(scale_invariance=0.0).scale_invariance == 0
    assert config.within(torch.tensor([1.0, 1.5, 2.0])).tolist() == [False, True, False]
