"""Which floating-point type is fast on a device: checked, not assumed."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

_SPEEDUP = 1.5  # bf16 must beat fp32 by this factor on a matrix product to be worth its rounding


@lru_cache(maxsize=8)
def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it faster than float32 (timed once, some milliseconds), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for one another on a busy machine, and all types look alike
    try:
        seconds = {dtype: _time_product(dtype) for dtype in (torch.float32, torch.bfloat16)}
    finally:
        torch.set_num_threads(threads)
    return torch.bfloat16 if seconds[torch.float32] > _SPEEDUP * seconds[torch.bfloat16] else torch.float32


def fast_autocast(device: torch.device) -> torch.autocast:
    """Matrix products in the device's fast type, all else as autocast has it."""
    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


@torch.no_grad()
def _time_product(dtype: torch.dtype, repeats: int = 5) -> float:
    a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):  # the first one pays for set-up
        start = time.perf_counter()
        torch.nn.functional.linear(a, b)
        best = min(best, time.perf_counter() - start)
    return best
