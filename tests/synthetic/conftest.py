"""Run a command of the workshop in this process."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from runpy import run_module as run_as_main

import pytest

from tests.conftest import Run

collect_ignore = [] if find_spec("pybullet") else ["test_scenes.py"]  # it has no wheel for Python 3.12 and later


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run `python -m synthetic.NAME`: `run_module("scenes", "-o", path)` returns exit status, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(name: str, *arguments: str | Path | int) -> Run:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)  # imported by other tests
            run_as_main(f"synthetic.{name}", run_name="__main__")
        captured = capsys.readouterr()
        return Run(int(stop.value.code or 0), captured.out, captured.err)

    return run
