"""Look up how fast devices multiply matrices and how much memory they have; others are measured."""

from __future__ import annotations

import difflib
import re
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from perception_encoder.errors import ConfigError
from perception_encoder.models.precision import fast_dtype


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    flops: float
    """Peak operations a second of dense bf16 products, as its maker gives it."""
    memory: float
    """Bytes."""


DEVICES: dict[str, Device] = {
    "a100-40gb": Device(312e12, 40e9),
    "a100-80gb": Device(312e12, 80e9),
    "h100": Device(989e12, 80e9),
    "h200": Device(989e12, 141e9),
    "b200": Device(2250e12, 180e9),
    "l40s": Device(362e12, 48e9),
    "mi300x": Device(1307e12, 192e9),
    "rtx-4090": Device(165e12, 24e9),
}


def find_device(name: str) -> Device:
    """Return a device of the table, or one of given numbers, "TFLOP/s:GB"; ConfigError lists the table."""
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", name)
    if numbers:
        return Device(float(numbers[1]) * 1e12, float(numbers[2]) * 1e9)
    if name.lower() not in DEVICES:
        near = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEVICES)}; or give TFLOP/s:GB, 400:48 say"
        raise ConfigError(f"no device is called {name!r}; {hint}")
    return DEVICES[name.lower()]


def known_device(full_name: str) -> Device | None:
    """Return the device of the table that a driver's name is of, "NVIDIA A100-SXM4-80GB" say."""
    words = full_name.lower()
    return next((each for name, each in DEVICES.items() if all(word in words for word in name.split("-"))), None)


@lru_cache(maxsize=8)
def peak_flops(device: torch.device) -> float:
    """Return the operations a second of matrix products in the type that training uses: of the table, or measured."""
    known = known_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known:
        return known.flops
    side, best = 1024 if device.type == "cpu" else 8192, float("inf")
    with torch.no_grad():
        a, b = (torch.ones(side, side, dtype=fast_dtype(device), device=device) for _ in range(2))
        for _ in range(5):  # the first one pays for set-up
            start = time.perf_counter()
            (a @ b)[0, 0].item()  # waits for it
            best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
