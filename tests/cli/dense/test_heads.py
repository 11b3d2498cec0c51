"""Files to predict on."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.cli.heads import find_files, predict_files
from perception_encoder.errors import DataError
from tests.clips import of_two_sizes


def test_names_are_relative_to_the_directory_that_all_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/x.png", "a/y.jpg", "a/y.png", "b/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def names(*paths: Path) -> list[tuple[str, str]]:
        return [(each.name, each.out) for each in find_files(paths)]

    assert names(tmp_path / "a") == [("x.png", "x"), ("y.jpg", "y.jpg"), ("y.png", "y.png")]
    assert names(tmp_path / "a" / "x.png") == [("x.png", "x")]
    both = [("a/x.png", "a/x"), ("a/y.jpg", "a/y.jpg"), ("a/y.png", "a/y.png"), ("b/x.png", "b/x")]
    assert (
        names(tmp_path / "a", tmp_path / "b") == names(tmp_path / "a", tmp_path / "a" / "x.png", tmp_path / "b") == both
    )
    monkeypatch.chdir(tmp_path / "a")
    assert names(Path("x.png"), Path("../b/x.png")) == [("a/x.png", "a/x"), ("b/x.png", "b/x")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images or videos in "):
        find_files([tmp_path / "empty"])


def test_no_two_files_are_written_to_one_place(tmp_path: Path) -> None:
    for name in ("y.jpg", "y.png", "y.jpg.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    files = find_files([tmp_path])
    assert {each.name: each.out for each in files} == {name: name for name in ("y.jpg", "y.png", "y.jpg.png")}


def test_files_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    files = [tmp_path / "good.png", tmp_path / "bad.mp4", tmp_path / "missing.png"]
    count, failures = predict_files(find_files(files), tmp_path / "out", lambda image, shown: image, 0)
    assert count == 1 and len(failures) == 2 and (tmp_path / "out" / "good.png").is_file()


def test_a_video_whose_frame_size_changes_is_a_failure(tmp_path: Path) -> None:
    (tmp_path / "clip.h264").write_bytes(of_two_sizes((96, 64), (64, 48)))
    count, (failure,) = predict_files(
        find_files([tmp_path / "clip.h264"]), tmp_path / "out", lambda image, shown: image, 0
    )
    assert count == 0 and not (tmp_path / "out" / "clip.mp4").exists()
    assert str(failure) == "clip.h264: frame 4 is of 64x48 pixels, the first of 96x64"
