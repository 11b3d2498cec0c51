"""`pe data scenes` and `pe data prepare scenes`."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.scenes.objects import furniture
from perception_encoder.scenes.objects.bundled import revolved_models
from perception_encoder.scenes.samples import production


def test_scenes_are_made(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(production, "bundled_models", revolved_models)
    run = run_pe("data", "scenes", "-o", tmp_path, "--count", 2, "--size", 32, "--jobs", 1)
    assert run.status == 0 and "2 images" in run.stdout
    written = sorted(path.name for path in (tmp_path / "train").iterdir())
    assert written == ["00000.tar", "ATTRIBUTION.txt", "instances.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "all"), "train, val, test"),
        (("--size", "33"), "even"),
        (("--models", "gone.tar"), "pe data prepare scenes"),
    ],
)
def test_bad_settings_are_one_line(
    run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(production, "bundled_models", revolved_models)
    run = run_pe("data", "scenes", "-o", tmp_path, *arguments)
    assert run.status == 2 and message in run.stderr and "Traceback" not in run.stderr


def test_the_furniture_is_fetched_and_made_once(run_pe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = []

    def fetch(package: str, directory: Path) -> Path:
        fetched.append(package)
        return directory

    def build(root: Path, path: Path, *_: object) -> furniture.PreparedLibrary:
        path.parent.mkdir(parents=True)
        path.touch()
        return furniture.PreparedLibrary(path=path, models=3)

    monkeypatch.setattr(furniture, "fetch_debian", fetch)
    monkeypatch.setattr(furniture, "build_library", build)
    first, second = (run_pe("data", "prepare", "scenes", tmp_path) for _ in range(2))
    assert fetched == ["sweethome3d-furniture"]
    assert "3 models" in first.stdout and "exists; delete it" in second.stdout
    assert first.status == second.status == 0


def test_two_directories_are_a_usage_error(run_pe, tmp_path: Path) -> None:
    run = run_pe("data", "prepare", tmp_path, tmp_path)
    assert run.status == 2 and "scenes" in run.stderr
