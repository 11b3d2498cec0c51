"""Choose the device and the floating-point type (measured, not assumed), and state how much rounding may change."""

from __future__ import annotations

import os
import time
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING

from perception_encoder.errors import ConfigError, one_line

if TYPE_CHECKING:
    import torch

VARIABLE = "PE_DTYPE"
"""Environment variable that forces a type: "float32" or "bfloat16"."""
TOLERANCE = {"float32": 5e-6, "bfloat16": 5e-3}
"""By type's name, the maximum difference between a unit embedding's values in two encodings of the same input.

Products of few and of many rows round differently, so an embedding depends slightly on its batch. Measured for the
built-in model: at most 2e-7 in float32, and 1.4e-3 in bfloat16 on a CPU with AMX (1 − cosine: 1.1e-5).
"""
WORTH = 1.5
"""Minimum speed-up of bfloat16 over float32 that is worth its rounding."""
_REPEATS = 7
_clock = time.thread_time if time.get_clock_info("thread_time").resolution < 1e-5 else time.perf_counter


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the given device, else a CUDA GPU if available, else the CPU; ConfigError if it cannot be used."""
    import torch

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {str(device)!r} cannot be used: {one_line(error, first=True)}") from error


def fast_dtype(device: torch.device) -> torch.dtype:
    """Return the type that `PE_DTYPE` names, else bfloat16 if the device multiplies it faster than float32.

    Raises ConfigError for another value of `PE_DTYPE`.
    """
    import torch

    forced = forced_precision()
    return _fastest(device) if forced is None else getattr(torch, forced)


def forced_precision() -> str | None:
    """Return the type that `PE_DTYPE` names, None for no type; ConfigError for an unknown one."""
    forced = os.environ.get(VARIABLE) or None
    if forced not in (None, *TOLERANCE):
        raise ConfigError(f"{VARIABLE} is {forced!r}; it must be one of {', '.join(TOLERANCE)}")
    return forced


@lru_cache(maxsize=8)
def _fastest(device: torch.device) -> torch.dtype:
    """Return the type with the fastest product, timed in a few milliseconds."""
    import torch

    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type != "cpu":
        return torch.float32
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several would wait for one another on a busy machine, and hide the difference
    best = dict.fromkeys((torch.float32, torch.bfloat16), float("inf"))
    try:
        for _, dtype in product(range(_REPEATS), best):  # the first repeat pays for set-up
            a, b = torch.ones(256, 512, dtype=dtype), torch.ones(512, 512, dtype=dtype)
            with torch.no_grad():
                start = _clock()  # this thread's CPU time, so that other work on the machine does not count
                torch.nn.functional.linear(a, b)
                best[dtype] = min(best[dtype], _clock() - start)
    finally:
        torch.set_num_threads(threads)
    return torch.bfloat16 if best[torch.float32] > WORTH * best[torch.bfloat16] else torch.float32


def fast_autocast(device: torch.device) -> torch.autocast:
    """Return an autocast to the device's fast type."""
    import torch

    dtype = fast_dtype(device)
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
