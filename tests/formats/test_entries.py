"""Fields of annotation files have their type, or an error names the file, the entry and the field."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from perception_encoder.errors import DataError, MissingExtraError, OutputError
from perception_encoder.formats.entries import (
    id_field,
    integer_field,
    list_objects,
    read_json,
    read_lines,
    text_field,
    text_list,
)
from perception_encoder.formats.media_directory import MediaDirectory, list_media
from perception_encoder.formats.tables import connect_lance, without_panics


@pytest.mark.parametrize("value", [None, "", True, {}, "x" * 100_000])
def test_fields_of_another_type_are_named(value: object) -> None:
    entry = {"field": value}
    checks = [
        lambda: integer_field(entry, "field", "a.json: x", least=1),
        lambda: list_objects({"field": [value]}, "field", "a.json: x"),
        lambda: text_list([value, 1], "a.json: x"),
    ]
    if not isinstance(value, str) or not value:
        checks.append(lambda: text_field(entry, "field", "a.json: x"))
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        checks.append(lambda: id_field(entry, "field", "a.json: x"))
    if value == {}:
        del checks[1]
    for check in checks:
        with pytest.raises(DataError, match=r"a\.json: x.* it must be ") as caught:
            check()
        assert len(str(caught.value)) < 200


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    with pytest.raises(DataError, match=r"a\.json cannot be read: No such file"):
        read_lines(path)
    for content in (b"{", b"\xff", b"[" * 100_000):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.json cannot be read as JSON"):
            read_json(path)
    path.write_bytes(b'\xef\xbb\xbf["a",\r\n1]')
    assert read_json(path) == ["a", 1] and read_lines(path) == ['["a",', "1]"]


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


def test_a_panic_is_an_error_and_others_stay_what_they_are() -> None:
    class PanicException(BaseException):
        pass

    with pytest.raises(RuntimeError, match=r"^called `unwrap` on an error$"), without_panics():
        raise PanicException("called `unwrap`\non an error")
    with pytest.raises(KeyboardInterrupt), without_panics():
        raise KeyboardInterrupt


def test_tables_of_a_directory_whose_name_looks_like_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.chdir(tmp_path)
    Path("a:b").mkdir()
    connect_lance(Path("a:b")).create_table("rows", [{"id": 1}])
    assert (tmp_path / "a:b" / "rows.lance").is_dir()
    with pytest.raises(OutputError, match="needs a path in UTF-8"):
        connect_lance(Path(os.fsdecode(b"caf\xe9")))


def test_without_lancedb_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtraError, match=r"lancedb is not installed; .*\[lance\]"):
        connect_lance(tmp_path)
