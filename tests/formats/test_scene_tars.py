"""Scenes of tars: files that belong together, and what is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.scene_tars import read_scene_tars
from perception_encoder.formats.shards import write_members

FILES = [("a.jpg", b"A"), ("a.json", b'{"objects": []}'), ("a.mask.png", b"m"), ("b.json", b"{}"), ("b.jpg", b"B")]


def test_a_scene_is_read_with_its_mask_only_if_asked(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    write_members(tar, [*FILES, ("b.mask.png", b"n")])
    plain = list(read_scene_tars([tar]))
    assert [(each.key, each.image, each.mask) for each in plain] == [("a", b"A", b""), ("b", b"B", b"")]
    assert plain[0].metadata == {"objects": []} and plain[0].where == f"{tar}: a"
    assert [each.mask for each in read_scene_tars([tar, tar], masks=True)] == [b"m", b"n"] * 2


def test_a_scene_without_its_mask_is_named(tmp_path: Path) -> None:
    tar = tmp_path / "0.tar"
    write_members(tar, FILES)
    assert len(list(read_scene_tars([tar]))) == 2
    with pytest.raises(DataError, match=r"1 samples lack an image, a mask or a \.json; the first is b"):
        list(read_scene_tars([tar], masks=True))


@pytest.mark.parametrize(("text", "message"), [(b"{", "is not JSON"), (b"[]", "is not a JSON object")])
def test_damaged_json_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    tar = tmp_path / "0.tar"
    write_members(tar, [("a.jpg", b"A"), ("a.json", text)])
    with pytest.raises(DataError, match=rf"0\.tar: a\.json {message}"):
        list(read_scene_tars([tar]))
