"""`pe data scenes` and `pe data prepare scenes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.scenes import furniture, production
from perception_encoder.scenes.bundled import turned_models
from perception_encoder.scenes.models import Library


def test_scenes_are_made(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "bundled_models", turned_models)
    run = run_pe("data", "scenes", "-o", tmp_path, "--count", 2, "--size", 32, "--jobs", 1)
    assert run.status == 0 and "2 images" in run.stdout
    written = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert written == ["00000.tar", "ATTRIBUTION.txt", "instances.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--split", "all"), "train, val, test"),
        (("--size", "33"), "even"),
        (("--models", "gone.tar"), "pe data prepare scenes"),
    ],
)
def test_bad_settings_are_one_line(run_pe, tmp_path: Path, monkeypatch, arguments: tuple[str, ...], said: str) -> None:
    monkeypatch.setattr(production, "bundled_models", turned_models)
    run = run_pe("data", "scenes", "-o", tmp_path, *arguments)
    assert run.status == 2 and said in run.stderr and "Traceback" not in run.stderr


def test_the_furniture_is_fetched_and_made_once(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(package: str, folder: Path) -> Path:
        fetched.append(package)
        return folder

    def build(root: Path, path: Path, *_: object) -> furniture.PreparedLibrary:
        path.parent.mkdir(parents=True)
        path.touch()
        return furniture.PreparedLibrary(path=path, models=3)

    monkeypatch.setattr(furniture, "fetch_debian", fetch)
    monkeypatch.setattr(furniture, "build_library", build)
    first, second = (run_pe("data", "prepare", "scenes", tmp_path) for _ in range(2))
    assert fetched == ["sweethome3d-furniture"]
    assert "3 models" in first.stdout and "exists: " in second.stdout
    assert first.status == second.status == 0


def test_two_directories_are_a_usage_error(run_pe, tmp_path: Path) -> None:
    run = run_pe("data", "prepare", tmp_path, tmp_path)
    assert run.status == 2 and "scenes" in run.stderr


def test_the_bundled_objects_are_enough_for_every_split() -> None:
    pytest.importorskip("pybullet_data")
    from perception_encoder.scenes.bundled import OBJECTS, TURNED, bundled_models
    from perception_encoder.scenes.layout import LayoutConfig, Layouts

    library = Library(bundled_models())
    assert len(library) == len(OBJECTS) + len(TURNED)
    for split in ("train", "val", "test"):
        Layouts(library, library.select(split), LayoutConfig())
    assert all(0.05 < max(about.size) < 0.6 and about.licence and about.creator for about in library.about.values())
    assert library["pybullet-rubber-duck"].colour() == "yellow"
