"""Files are found by path or by bare name, however deep they lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import MediaDirectory, list_media


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("b/cat.jpg", "a/cat.png", "a/deep/dog.MP4", "top.webp", ".hidden.jpg", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_images_and_videos_are_listed_in_order(photos: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in list_media(photos)]
    assert names == ["a/cat.png", "a/deep/dog.MP4", "b/cat.jpg", "top.webp"]


def test_a_file_is_found_by_path_name_or_stem(photos: Path) -> None:
    media = MediaDirectory(photos)
    assert media.find("b/cat.jpg") == photos / "b/cat.jpg"
    assert media.find("elsewhere/dog.MP4") == media.find("dog") == photos / "a/deep/dog.MP4"
    assert media.find("cat") == photos / "a/cat.png"  # the first of two
    assert media.find("none.jpg", "top") == photos / "top.webp"
    assert media.find("none.jpg", "x" * 5000) == photos / "none.jpg"


def test_a_missing_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is not a directory"):
        MediaDirectory(tmp_path / "none")
