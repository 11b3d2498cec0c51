"""The small model with random weights as a file, distinct images, a terminal, and commands made for a test."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from perception_encoder.cli import main, output
from tests.inference.conftest import checkpoint, draw, encoder, image_files

__all__ = ["checkpoint", "draw", "encoder", "image_files"]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings file of a user who has chosen nothing."""
    monkeypatch.delenv("PE_MODEL", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "perception-encoder" / "config.json"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard output is a terminal of 100 columns without colours."""
    monkeypatch.setattr(output, "console", Console(width=100, force_terminal=True, color_system=None))


@pytest.fixture
def add_command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Add a command `example` that runs the given function."""

    def add(function: Callable[[], None]) -> None:
        module = types.ModuleType("perception_encoder.cli.example")
        vars(module)["example"] = function
        monkeypatch.setitem(sys.modules, module.__name__, module)
        monkeypatch.setitem(main.COMMANDS["Search"], "example", "example")

    return add
