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


@dataclass(frozen=True, kw_only=True)
class Device:
    """One accelerator."""

    flops: float
    """Peak operations a second of dense bf16 products, as its maker gives it."""
    memory: float
    """Bytes."""


DEVICES: dict[str, Device] = {
    "a100-40gb": Device(flops=312e12, memory=40e9),
    "a100-80gb": Device(flops=312e12, memory=80e9),
    "h100": Device(flops=989e12, memory=80e9),
    "h200": Device(flops=989e12, memory=141e9),
    "b200": Device(flops=2250e12, memory=180e9),
    "l40s": Device(flops=362e12, memory=48e9),
    "mi300x": Device(flops=1307e12, memory=192e9),
    "rtx-4090": Device(flops=165e12, memory=24e9),
}
_SIDE = {"cpu": 1024}  # of the matrices that are multiplied; elsewhere 8192
_REPEATS = 5


def find_device(name: str) -> Device:
    """Return a device of the table, or one with numbers of its own, "TFLOP/s:GB"; ConfigError lists the table."""
    own = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", name)
    if own:
        return Device(flops=float(own[1]) * 1e12, memory=float(own[2]) * 1e9)
    if name.lower() not in DEVICES:
        near = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(DEVICES)}; or give TFLOP/s:GB, 400:48 say"
        raise ConfigError(f"no device is called {name!r}; {hint}")
    return DEVICES[name.lower()]


def known_device(full_name: str) -> Device | None:
    """The device of the table that a driver's name is of, "NVIDIA A100-SXM4-80GB" say."""
    for name, device in DEVICES.items():
        if all(word in full_name.lower() for word in name.split("-")):
            return device
    return None


@lru_cache(maxsize=8)
def peak_flops(device: torch.device) -> float:
    """Operations a second of matrix products in the type that training uses: by the table, or the best of five."""
    known = known_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return known.flops if known else _measure(device)


@torch.no_grad()
def _measure(device: torch.device) -> float:
    side, best = _SIDE.get(device.type, 8192), float("inf")
    a, b = (torch.ones(side, side, dtype=fast_dtype(device), device=device) for _ in range(2))
    for _ in range(_REPEATS):  # the first one pays for set-up
        start = time.perf_counter()
        (a @ b)[0, 0].item()  # waits for it
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
