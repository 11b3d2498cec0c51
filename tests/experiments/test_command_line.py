"""`python -m experiments.NAME`: help with examples, and errors before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experiments.{arguments[0]}", *map(str, arguments[1:])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_missing_data_are_named(tmp_path: Path) -> None:
    paths = [part for name in ("photos", "rooms", "clips") for part in (f"--{name}", tmp_path)]
    scenes, runs = tmp_path / "none", tmp_path / "runs"
    done = run("layers", *paths, "--scenes", scenes, "--runs", runs, "-o", tmp_path / "a.json")
    assert done.returncode == 2 and done.stderr == f"error: scenes: {scenes} does not exist\n"
    assert not runs.exists()
