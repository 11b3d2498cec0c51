"""Project an encoder's tokens into a language model's embedding space (section 4)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from perception_encoder.errors import ConfigError, ShapeError


class Projector(nn.Module):
    """Linear – GELU – Linear on each token, then average pooling over `pool` × `pool` tokens (PLM's order).

    `width`: channels of the encoder's tokens. `dim`: channels of the language model's embeddings. `linear`: one
    linear map instead, Table 9's ablation. Parameters carry PLM's names, `projector.0` and `projector.2`.
    """

    def __init__(self, width: int, dim: int, pool: int = 1, linear: bool = False) -> None:
        super().__init__()
        if min(width, dim, pool) < 1:
            raise ConfigError(f"width, dim and pool are {width}, {dim} and {pool}; all must be at least 1")
        self.width, self.dim, self.pool = width, dim, pool
        layers = [nn.Linear(width, dim)] if linear else [nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim)]
        self.projector = nn.Sequential(*layers)

    def initialize(self, generator: torch.Generator) -> None:
        """Draw the weights anew, so that outputs are about as large as inputs; biases are zero."""
        for module in self.projector:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=module.in_features**-0.5, generator=generator)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Float[Tensor, "B N width"], grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "B M dim"]:
        """Return a grid's projected tokens, row by row: M = `tokens_of(grid)`.

        `grid`: rows and columns of the tokens, the class token removed; a square by default. Raises ShapeError if
        the tokens do not fill it.
        """
        rows, columns = grid or (math.isqrt(tokens.shape[1]),) * 2
        if rows * columns != tokens.shape[1]:
            raise ShapeError(f"{tokens.shape[1]} tokens do not fill a grid of {rows} x {columns}; give their grid")
        projected = self.projector(tokens)  # (B, N, dim)
        if self.pool == 1:
            return projected
        image = projected.transpose(1, 2).unflatten(2, (rows, columns))
        pooled = functional.adaptive_avg_pool2d(image, self.pooled_grid((rows, columns)))
        return pooled.flatten(2).transpose(1, 2)

    def pooled_grid(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Return rows and columns after pooling; a side that `pool` does not divide is rounded down, to 1 at least."""
        return max(1, grid[0] // self.pool), max(1, grid[1] // self.pool)

    def tokens_of(self, grid: tuple[int, int]) -> int:
        """Return the number of tokens that a grid becomes."""
        rows, columns = self.pooled_grid(grid)
        return rows * columns
