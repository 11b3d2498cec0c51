"""One search from the shell, all in, beside loading torch alone, in turn: the ratio is comparable between machines."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.embed import write_photographs
from benchmarks.search.process import PE

IMAGES = 1000
KINDS = ("seconds", "processor seconds")
SEARCH, TORCH = 'pe search "a red mug" DIR', 'python -c "import torch"'


def measure(brief: bool) -> dict[str, Any]:
    """Seconds of each command in each round, after one that warms up, and the same of processor time."""
    rounds = 10 if brief else 15
    with tempfile.TemporaryDirectory() as directory:
        write_photographs(Path(directory), IMAGES)
        subprocess.run([PE, "index", directory], check=True, stdout=subprocess.DEVNULL)
        commands = {SEARCH: [PE, "search", "a red mug", directory], TORCH: [sys.executable, "-c", "import torch"]}
        times: dict[str, dict[str, list[float]]] = {kind: {name: [] for name in commands} for kind in KINDS}
        for number in range(rounds + 1):
            for name, command in commands.items():
                for kind, elapsed in zip(KINDS, _time(command), strict=True):
                    times[kind][name] += [elapsed] if number else []
                    print(f"shell round {number}/{rounds}  {name}: {elapsed:.2f} {kind}", flush=True)
    ratios = {
        kind: median(ours / bare for ours, bare in zip(rows[SEARCH], rows[TORCH], strict=True))
        for kind, rows in times.items()
    }
    return {"images": IMAGES, **times, "ratio to import torch": ratios}


def _time(command: Sequence[str]) -> tuple[float, float]:
    """Return the seconds that passed, and those that the processors were busy with it."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start, before = time.perf_counter(), os.times()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    elapsed, after = time.perf_counter() - start, os.times()
    return elapsed, sum(after[2:4]) - sum(before[2:4])
