"""The connection to pybullet, and the errors without it."""

from __future__ import annotations

import os
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from perception_encoder.errors import ConfigError
from synthetic.errors import MissingGroupError
from synthetic.scenes.rendering.client import connect_pybullet, silence_output


def test_output_is_silenced_and_restored(capfd: pytest.CaptureFixture[str]) -> None:
    with silence_output():
        os.write(1, b"hidden")
        os.write(2, b"hidden")
    os.write(1, b"visible")
    assert capfd.readouterr() == ("visible", "")


def test_output_is_restored_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="stop"), silence_output():
        raise ValueError("stop")
    os.write(2, b"visible")
    assert capfd.readouterr().err == "visible"


def test_without_pybullet_the_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(MissingGroupError, match="--group synthetic"):
        connect_pybullet()


def test_a_python_without_a_wheel_of_pybullet_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pybullet", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(ConfigError, match=r"has no wheel for Python 3\.13; use Python 3\.11"):
        connect_pybullet()


def test_the_group_leaves_out_pybullet_where_it_has_no_wheel(root: Path) -> None:
    groups = tomllib.loads((root / "pyproject.toml").read_text())["dependency-groups"]
    (pybullet,) = [Requirement(line) for line in groups["synthetic"] if line.startswith("pybullet")]
    present = {version: pybullet.marker.evaluate({"python_version": version}) for version in ("3.11", "3.12", "3.13")}
    assert present == {"3.11": True, "3.12": False, "3.13": False}
