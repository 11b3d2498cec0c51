"""Fetching packages: unpacked, and clear errors if a client is missing or fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from synthetic.packages import fetch_debian, fetch_npm

pytestmark = pytest.mark.security


@pytest.mark.parametrize(("fetch", "client"), [(fetch_npm, "npm"), (fetch_debian, "apt-get")])
def test_a_missing_client_is_named(fetch, client: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=f"{client} is not installed"):
        fetch("package", tmp_path / "x")


def write_client(directory: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = directory / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(("fetch", "client"), [(fetch_npm, "npm"), (fetch_debian, "apt-get")])
def test_a_failing_client_is_quoted(fetch, client: str, tmp_path: Path, monkeypatch) -> None:
    write_client(tmp_path, client, "echo first >&2; echo 'no network' >&2; exit 7", monkeypatch)
    with pytest.raises(DataError, match=f"^{client} .*package.* failed: no network; .*reachable"):
        fetch("package", tmp_path / "x")


def test_an_npm_package_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    write_client(
        tmp_path,
        "npm",
        "mkdir package; echo hello > package/file; tar czf p-1.0.tgz package; rm -r package",
        monkeypatch,
    )
    assert (fetch_npm("p", tmp_path / "x") / "file").read_text() == "hello\n"
