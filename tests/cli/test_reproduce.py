"""`pe reproduce layers`: what is missing is named before anything is trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.conftest import Run


def test_missing_data_are_named(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    places = [part for name in ("photos", "rooms", "clips") for part in (f"--{name}", tmp_path)]
    ran = run_pe(
        "reproduce",
        "layers",
        *places,
        "--scenes",
        tmp_path / "none",
        "--runs",
        tmp_path / "runs",
        "-o",
        tmp_path / "a.json",
    )
    assert ran.status == 2 and "scenes:" in ran.stderr and "does not exist" in ran.stderr
    assert not (tmp_path / "runs").exists()
