"""One list of suffixes, which all readers share."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perception_encoder.preprocess.media_types import (
    IMAGE_SUFFIXES,
    SHARD_IMAGES,
    SHARD_VIDEOS,
    VIDEO_SUFFIXES,
    file_brands,
    is_heif,
)


def test_an_image_is_no_video() -> None:
    assert not IMAGE_SUFFIXES & VIDEO_SUFFIXES
    assert {f".{extension}" for extension in SHARD_IMAGES} < IMAGE_SUFFIXES
    assert {f".{extension}" for extension in SHARD_VIDEOS} < VIDEO_SUFFIXES


@pytest.mark.parametrize(
    ("brands", "heif"), [(b"heicmif1", True), (b"mif1heic", True), (b"avifmif1", False), (b"isommp42", False)]
)
def test_brands_tell_heic_from_avif_and_video(brands: bytes, heif: bool) -> None:
    head = (8 + len(brands)).to_bytes(4, "big") + b"ftyp" + brands + b"mif1 beyond the box"
    assert file_brands(head) == {brands[:4], brands[4:]}
    assert is_heif(head) == heif


def test_other_files_have_no_brands() -> None:
    assert file_brands(b"\xff\xd8\xff") is None and not is_heif(b"")


def test_no_module_lists_suffixes_of_its_own(root: Path) -> None:
    """Three suffixes or more in a row are a list."""
    listing = re.compile(r'(?:"\.?(?:jpe?g|png|webp|gif|mp4|webm|mov|mkv|avi)",?\s*){3,}')
    sources = [*(root / "perception_encoder").rglob("*.py"), *(root / "benchmarks").rglob("*.py")]
    listed = [path.name for path in sources if listing.search(path.read_text(encoding="utf-8"))]
    assert sorted(set(listed) - {"masked_videos.py"}) == ["media_types.py"]
