"""What an error says to do can be done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder import errors


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Make the package look installed from a place, as pip notes it; None: from an index."""

    def install(told: dict | str | None) -> None:
        class Distribution:
            def read_text(self, name: str) -> str | None:
                assert name == "direct_url.json"
                return told if told is None or isinstance(told, str) else json.dumps(told)

        monkeypatch.setattr(errors.metadata, "distribution", lambda name: Distribution())

    return install


def test_an_extra_is_installed_from_where_the_package_is_from(installed, tmp_path: Path) -> None:
    wheel = tmp_path / "my wheels" / "perception_encoder-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    installed({"url": wheel.as_uri(), "archive_info": {}})
    assert errors.install_command("search") == f"run: pip install '{wheel}[search]'"
    installed({"url": tmp_path.as_uri(), "dir_info": {}})
    assert errors.install_command("heic") == f"run: pip install '{tmp_path}[heic]'"
    installed({"url": tmp_path.as_uri(), "dir_info": {"editable": True}})
    message = str(errors.MissingExtraError("lancedb", "search"))
    assert message == f"lancedb is not installed; run: pip install -e '{tmp_path}[search]'"


@pytest.mark.parametrize("told", [None, "{", "[]", {"url": "file:///no/such/place"}, {"url": "https://a.example/a.whl"}])
def test_without_such_a_place_it_is_the_package_s_name(installed, told: dict | str | None) -> None:
    installed(told)
    assert errors.install_command("search") == "run: pip install 'perception-encoder[search]'"
