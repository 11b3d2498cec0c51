"""`python -m experiments.NAME`: help with examples, and errors before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command_line import TOWERS
from experiments.layers.run import TOWER_FILES
from tests.conftest import ROOT


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"experiments.{arguments[0]}", *map(str, arguments[1:])]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("name", ["recipe", "distillation", "layers"])
def test_help_has_examples(name: str) -> None:
    done = run(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"python -m experiments.{name} --photos photos" in done.stdout and "--jobs" in done.stdout


def test_missing_data_are_named(tmp_path: Path) -> None:
    paths = [part for name in ("photos", "rooms", "clips") for part in (f"--{name}", tmp_path)]
    scenes, runs = tmp_path / "none", tmp_path / "runs"
    done = run("layers", *paths, "--scenes", scenes, "--runs", runs, "-o", tmp_path / "a.json")
    assert done.returncode == 2 and done.stderr == f"error: scenes: {scenes} does not exist\n"
    assert not runs.exists()


def test_towers_are_in_the_repository() -> None:
    assert {path.name for path in TOWERS.iterdir()} == set(TOWER_FILES.values())
