"""One search from the shell, all in, beside loading torch alone, in turn."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.embed import write_photographs
from benchmarks.search.process import PE

IMAGES = 1000
SEARCH, TORCH = 'pe search "a red mug" DIR', 'python -c "import torch"'


def measure(brief: bool) -> dict[str, Any]:
    """Seconds of each command in each round, after one that warms up."""
    rounds = 5 if brief else 15
    with tempfile.TemporaryDirectory() as directory:
        write_photographs(Path(directory), IMAGES)
        subprocess.run([PE, "index", directory], check=True, stdout=subprocess.DEVNULL)
        commands = {SEARCH: [PE, "search", "a red mug", directory], TORCH: [sys.executable, "-c", "import torch"]}
        seconds: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                elapsed = _time(command)
                if number:
                    seconds[name].append(elapsed)
                print(f"shell round {number}/{rounds}  {name}: {elapsed:.2f} s", flush=True)
    return {"images": IMAGES, "seconds": seconds}


def _time(command: Sequence[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    return time.perf_counter() - start
