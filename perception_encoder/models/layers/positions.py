"""Learned absolute position embeddings, resampled to any grid."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def resample_table(table: Tensor, rows: int) -> Tensor:
    """Resample a square position table (R, D) to `rows` of another square; a class token's row, if any, stays first."""
    prefix = len(table) - math.isqrt(len(table)) ** 2
    side = math.isqrt(rows - prefix)
    return torch.cat([table[:prefix], resample_positions(table[prefix:], (side, side))])


def resample_positions(grid_embedding: Tensor, grid: tuple[int, int]) -> Tensor:
    """Resample a square grid of position embeddings (h·w, D) to another grid: bilinear, corners not aligned."""
    side = math.isqrt(int(grid_embedding.shape[0]))  # a tensor under torch.jit.trace
    if grid == (side, side):
        return grid_embedding
    square = grid_embedding.T.reshape(1, -1, side, side)  # (1, D, h, w)
    return F.interpolate(square, size=grid, mode="bilinear", align_corners=False).flatten(2)[0].T
