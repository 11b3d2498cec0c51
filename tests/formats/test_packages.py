"""Fetching a wheel of PyPI: unpacked."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from perception_encoder.formats.packages import fetch_pypi

pytestmark = pytest.mark.security


def test_a_wheel_is_fetched_and_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pip = tmp_path / "python"
    pip.write_text(
        '#!/bin/sh\necho "$@" > asked\nmkdir -p p\necho hello > p/file\n'
        f"{sys.executable} -m zipfile -c p-1.0-py3-none-any.whl p\nrm -r p\n"
    )
    pip.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(pip))
    assert (fetch_pypi("p", tmp_path / "x") / "p" / "file").read_text() == "hello\n"
    assert "-m pip download --no-deps" in (tmp_path / "x" / "asked").read_text()
    assert not list((tmp_path / "x").glob("*.whl"))
