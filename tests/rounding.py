"""Rounding of a CPU with AMX on any CPU, so that no test depends on a machine."""

from __future__ import annotations

import os

import torch

ROWS = 192
"""On such a CPU the rounding of a bfloat16 product of fewer rows than about this depends on their number."""

_exact = torch.nn.functional.linear


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    width = x.shape[-1]
    rows = x.numel() // width
    rounded = x.dtype == torch.bfloat16 or (x.device.type == "cpu" and torch.is_autocast_enabled("cpu"))
    if not rounded or rows >= ROWS:
        return _exact(x, weight, bias)
    at = (1 + rows % 3) * width // 4
    return _exact(x[..., :at], weight[:, :at], bias) + _exact(x[..., at:], weight[:, at:])


def round_as_amx() -> None:
    """With PE_DTYPE=bfloat16, let this process's small products be sums of two rounded parts.

    So an image's embedding depends a little on the size of its batch, as it does with AMX.
    """
    if os.environ.get("PE_DTYPE") == "bfloat16":
        torch.nn.functional.linear = _linear
