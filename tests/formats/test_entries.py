"""Fields of annotation files have their type, or an error names the file, the entry and the field."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.entries import (
    are_numbers,
    id_field,
    integer_field,
    list_objects,
    quoted,
    read_json,
    read_lines,
    text_field,
    text_list,
)


def test_fields_of_the_right_type() -> None:
    entry = {"text": "a", "id": 7, "objects": [{"a": 1}], "texts": ["a", "b"]}
    assert text_field(entry, "text", "x") == "a"
    assert (id_field(entry, "id", "x"), id_field(entry, "text", "x")) == (7, "a")
    assert integer_field(entry, "id", "x", least=7) == 7
    assert list_objects(entry, "objects", "x") == [{"a": 1}]
    assert text_list(entry["texts"], "x") == ["a", "b"]


@pytest.mark.parametrize("value", [None, "", 0, True, 2.5, [], {}, "x" * 100_000])
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


def test_numbers_within_bounds() -> None:
    assert are_numbers([1, 2.5, -3]) and are_numbers([])
    for value in ([1, True], [1, "2"], [1e9], [float("nan")], "12", None):
        assert not are_numbers(value)
    assert not are_numbers([-1], least=0) and quoted(None) == "missing or null"


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
