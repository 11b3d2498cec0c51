"""Resampled position embeddings: bilinear, corners not aligned, written out for one axis at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.models.vision_transformer import resample_positions


def bilinear(square: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Sample a grid (s, s, D) at the centres of another grid's cells, an axis after the other."""
    for axis, size in enumerate(grid):
        side = square.shape[axis]
        centres = ((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1)
        low = np.floor(centres).astype(int)
        high = np.minimum(low + 1, side - 1)
        share = (centres - low).reshape([-1 if a == axis else 1 for a in range(3)])
        square = (1 - share) * square.take(low, axis) + share * square.take(high, axis)
    return square


@pytest.mark.parametrize("grid", [(8, 12), (3, 2), (7, 6), (1, 1), (20, 7)])
def test_resampling_is_bilinear(grid: tuple[int, int]) -> None:
    table = torch.randn(49, 5, generator=torch.Generator().manual_seed(0))
    expected = bilinear(table.numpy().reshape(7, 7, 5).astype(np.float64), grid).reshape(-1, 5)
    np.testing.assert_allclose(resample_positions(table, grid).numpy(), expected, atol=1e-5)


def test_its_own_grid_is_left_alone() -> None:
    table = torch.randn(49, 5, generator=torch.Generator().manual_seed(0))
    assert resample_positions(table, (7, 7)) is table
