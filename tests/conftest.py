"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the network is no test; set before the hub's client is imported

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real photographs and clips that PE_TEST_DATA names; skips the test without it."""
    folder = os.environ.get("PE_TEST_DATA")
    if not folder:
        pytest.skip("PE_TEST_DATA names no folder of real photographs and clips")
    return Path(folder)


@dataclass(frozen=True)
class Run:
    """How a `pe` command ended."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run_pe(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run `pe` in this process: `run_pe("models", "--json")` returns its exit status, stdout and stderr."""
    from perception_encoder.cli.main import main

    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments: str | Path) -> Run:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Run(int(stop.value.code or 0), captured.out, captured.err)

    return run
