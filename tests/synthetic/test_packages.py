"""Fetching packages: unpacked, and clear errors if a client is missing or fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from synthetic.packages import fetch_npm

pytestmark = pytest.mark.security


def write_client(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


def test_a_client_that_leaves_no_package_is_an_error(tmp_path: Path, monkeypatch) -> None:
    write_client(tmp_path, "npm", "exit 0", monkeypatch)
    with pytest.raises(DataError, match=r"left no \*\.tgz"):
        fetch_npm("package", tmp_path / "x")


def test_an_npm_package_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    write_client(
        tmp_path,
        "npm",
        "mkdir package; echo hello > package/file; tar czf p-1.0.tgz package; rm -r package",
        monkeypatch,
    )
    assert (fetch_npm("p", tmp_path / "x") / "file").read_text() == "hello\n"
