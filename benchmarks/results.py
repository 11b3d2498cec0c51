"""What every benchmark says of its machine, how it hands over its result, and what pages read of one."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from perception_encoder.runtime.machine import cpu_flags

Rows = list[Sequence[str]]
Tables = Mapping[str, Rows]
"""Tables by their headings."""
Read = Callable[[str], Any]
"""Returns the content of a JSON file of docs/results, by its name."""
RECALL = 0.99
"""What a nearest-neighbour search is compared at."""
_FEATURES = {"AMX": "amx_tile", "AVX-512": "avx512f", "bfloat16": "avx512_bf16", "VNNI": "avx512_vnni"}


def machine() -> str:
    """Return the CPU, its cores and the versions of this machine."""
    cpu = f"{torch.get_num_threads()} cores of {cpu_name()} ({', '.join(cpu_features())})"
    return f"{cpu}, torch {torch.__version__}, Python {platform.python_version()}"


def cpu_features() -> list[str]:
    """Return the features of this CPU that choose kernels."""
    flags = set(cpu_flags().split())
    return [name for name, flag in _FEATURES.items() if flag in flags]


def cpu_name() -> str:
    """Return the name, family and model of this CPU; "unknown" where Linux isn't."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    known = dict(map(str.strip, line.split(":", 1)) for line in reversed(lines) if ":" in line)  # type: ignore[arg-type]
    return f"{known.get('model name', 'unknown')}, family {known.get('cpu family')}, model {known.get('model')}"


def report(result: dict[str, Any], out: Path | None) -> None:
    """Write a result as JSON, or print it."""
    text = json.dumps(result, indent=1)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")


def best_setting(settings: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the fastest setting that reaches `RECALL`, or else the one with the highest recall."""
    enough = [setting for setting in settings if setting["recall"] >= RECALL]
    if enough:
        return min(enough, key=lambda setting: float(setting["median"]))
    return max(settings, key=lambda setting: float(setting["recall"]))
