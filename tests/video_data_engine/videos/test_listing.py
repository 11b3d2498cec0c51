"""Videos of directories, tars and tables, their keys, and the JSON beside them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.listing import list_items
from perception_encoder.video_data_engine.videos.listing import list_videos, make_key
from tests.data.tars import write_tar


def test_only_videos_are_listed_each_once(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.webm", "photo.jpg", "notes.txt", "a.json", "b.info.json"):
        (tmp_path / name).write_bytes(b"x")
    records = list(list_videos([tmp_path, tmp_path / "b.mp4"]))
    assert [Path(record.item.path).name for record in records] == ["a.webm", "b.mp4"]
    assert [record.sidecar for record in records] == [tmp_path / "a.json", tmp_path / "b.info.json"]


def test_keys_are_plain_and_tell_files_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for directory in ("x", "y"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "Кот & dog.mp4").write_bytes(b"x")
    first, second = (record.key for record in list_videos([tmp_path]))
    assert first != second and first.startswith("dog-") and first.replace("-", "").isalnum()
    monkeypatch.chdir(tmp_path)
    assert [record.key for record in list_videos(["x"])] == [first]
    part, other = list_items(["x/Кот & dog.mp4@1s-2s", "x/Кот & dog.mp4@2s-3s"])
    assert len({make_key(part), make_key(other), first}) == 3


def test_members_of_equal_names_have_their_own_keys_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two tars of one name below two directories, and of two directories in a tar."""
    keys = []
    for directory in ("x", "y"):
        members = {f"{part}/c.{kind}": f"{directory}{part}".encode() for part in "ab" for kind in ("mp4", "json")}
        write_tar(tmp_path / directory / "t.tar", members)
        monkeypatch.chdir(tmp_path / directory)
        records = list(list_videos(["t.tar"]))
        assert [record.item.path for record in records] == ["t.tar/a/c.mp4", "t.tar/b/c.mp4"]
        assert [record.sidecar.read("c.json").decode() for record in records] == [f"{directory}a", f"{directory}b"]
        own = [record.key for record in records]
        assert [record.key for record in list_videos([tmp_path / directory / "t.tar"])] == own
        keys += own
    assert len(set(keys)) == 4


def test_what_cannot_be_listed_is_a_record_that_raises(tmp_path: Path) -> None:
    (tmp_path / "bad.tar").write_bytes(b"no tar" * 200)
    (record,) = list_videos([tmp_path / "bad.tar"])
    assert record.item.problem is not None


def test_a_video_in_a_tar_has_the_json_beside_it(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in (("c.mp4", b"member"), ("c.json", b"{}")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    (member,) = list_videos([tmp_path])
    assert isinstance(member.sidecar, TarMember) and member.sidecar.read("c.json") == b"{}"
