"""Two-dimensional rotary position embedding (RoPE).

Half of each head's channels turn with x, the other half with y (x first). Within a half, neighbouring channels
form pairs, and pair i turns by `position · 10000^(-2i/d)`, d being the half's width. With a class token, its angle
is 0 and patches count from 1; without one they count from 0. A table depends on the grid alone, so it is computed
once per grid and shared, read-only, by all blocks, calls and threads.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


def rope_table(
    grid: tuple[int, int], head_dim: int, class_token: bool, device: torch.device, step: float = 1.0
) -> Tensor:
    """Cosines and signed sines of a grid of patches: float32 (2, N, head_dim), N = class token + h·w.

    The sine of a pair's first channel carries the minus sign, so that `rotate` is one multiply and one add. `step`:
    from one patch's position to the next.
    """
    if _is_traced():  # a traced tensor must not outlive its trace
        return _compute_table(grid, head_dim, class_token, device, step)
    return _cached_table(grid, head_dim, class_token, device, step)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined]


@lru_cache(maxsize=64)
def _cached_table(grid: tuple[int, int], head_dim: int, class_token: bool, device: torch.device, step: float) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # so that training can use what inference computed
        return _compute_table(grid, head_dim, class_token, device, step)


def _compute_table(
    grid: tuple[int, int], head_dim: int, class_token: bool, device: torch.device, step: float
) -> Tensor:
    h, w = grid
    half = head_dim // 2
    frequencies = 10000.0 ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    first = 1.0 if class_token else 0.0
    x = torch.arange(w, dtype=torch.float32, device=device).mul(step).add(first).repeat(h)
    y = torch.arange(h, dtype=torch.float32, device=device).mul(step).add(first).repeat_interleave(w)
    angles = torch.cat([x[:, None] * frequencies, y[:, None] * frequencies], dim=1)  # (h·w, head_dim / 2)
    if class_token:
        angles = torch.cat([angles.new_zeros(1, half), angles])
    cosines, sines = angles.cos().repeat_interleave(2, dim=1), angles.sin()
    return torch.stack([cosines, torch.stack([-sines, sines], dim=-1).flatten(1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turn queries or keys (…, N, head_dim) by a `rope_table`, in float32."""
    if _is_traced():  # compilers and exporters want real numbers
        exact = x.float()
        swapped = exact.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return torch.addcmul(exact * table[0], swapped, table[1]).to(x.dtype)
    return _Rotation.apply(x, torch.complex(table[0, :, 1::2], table[1, :, 1::2]))


class _Rotation(torch.autograd.Function):
    """A complex product, whose gradient is the rotation back (several times faster than what autograd would record)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turns: Tensor) -> Tensor:
        ctx.save_for_backward(turns)
        exact = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(turns)
        return exact.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (turns,) = ctx.saved_tensors
        return _Rotation.apply(gradient, turns.conj()), None
