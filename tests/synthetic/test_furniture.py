"""`python -m synthetic.furniture`: the library is fetched and written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from synthetic.scenes.objects import furniture


@pytest.fixture
def packages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces the download and the reading of the models; returns the names of the fetched packages."""
    names: list[str] = []

    def fetch(package: str, directory: Path) -> Path:
        names.append(package)
        return directory

    def build(root: Path, path: Path, *_: object) -> furniture.PreparedLibrary:
        path.parent.mkdir(parents=True)
        path.touch()
        return furniture.PreparedLibrary(path=path, models=3)

    monkeypatch.setattr(furniture, "fetch_debian", fetch)
    monkeypatch.setattr(furniture, "build_library", build)
    return names


def test_the_library_is_fetched_and_written_once(run_module, tmp_path: Path, packages: list[str]) -> None:
    first, second = run_module("furniture", tmp_path), run_module("furniture", "-o", tmp_path)
    assert packages == ["sweethome3d-furniture"] and (tmp_path / "scenes" / "furniture.tar").exists()
    assert "3 models" in first.stdout and "exists; delete it" in second.stdout
    assert first.status == second.status == 0


def test_two_directories_are_a_usage_error(run_module, tmp_path: Path, packages: list[str]) -> None:
    run = run_module("furniture", tmp_path, tmp_path)
    assert run.status == 2 and "unexpected extra argument" in run.stderr and packages == []
