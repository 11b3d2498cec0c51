"""`python -m experiments.NAME`: help with examples, pages next to the JSON, and errors before anything is trained."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from experiments.command_line import TOWERS, write_page
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


def test_a_page_and_a_plot_are_written_next_to_the_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def page(result: int, plot: str = "no plot") -> str:
        return f"{result}: {plot}"

    write_page(tmp_path / "r.json", page, 3)
    assert (tmp_path / "r.md").read_text() == "3: no plot" and capsys.readouterr().out == "3: no plot\n"
    write_page(tmp_path / "r.json", page, 4, lambda result, path: path.write_text(str(result)))
    assert (tmp_path / "r.md").read_text() == "4: r.png" and (tmp_path / "r.png").read_text() == "4"
