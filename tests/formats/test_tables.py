"""Rows of tables: paths, texts and times of CSV, TSV, Parquet and JSONL files, and cells of any other column."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.errors import DataError, InputError, MediaDecodeError
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.formats.tables import (
    TEXT_COLUMNS,
    Row,
    find_column,
    iterate_table,
    read_image_table,
    read_rows,
    read_table,
)
from perception_encoder.preprocess.media import open_media
from tests.clips import clip
from tests.formats.test_listing import here, posix_names, reasons, write

__all__ = ["here"]


def write_table(path: str, rows: list[dict[str, object]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    if path.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.endswith(".jsonl"):
        Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns, delimiter="\t" if path.endswith(".tsv") else ",")
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl"])
def test_tables(name: str, here: Path) -> None:
    write(["data/p/a, b.jpg", "top.jpg"])
    write(["data/clip.mp4"], clip(50))
    rows = [
        {"Path": "p/a, b.jpg", "text": 'a "mug"', "start": None, "end": None, "id": None},
        {"Path": "clip.mp4", "text": None, "start": 0.5, "end": 1.0, "id": None},
        {"Path": "clip.mp4@1s", "text": None, "start": None, "end": None, "id": "mine"},
        {"Path": "top.jpg", "text": None, "start": None, "end": None, "id": None},
        {"Path": "missing.jpg", "text": None, "start": None, "end": None, "id": None},
        {"Path": None, "text": "only words", "start": None, "end": None, "id": None},
        {"Path": "https://example.com/a.jpg", "text": None, "start": None, "end": None, "id": None},
    ]
    write_table(f"data/{name}", rows)
    items = list(list_items([f"data/{name}"]))
    folder = Path("data")
    assert items == [
        Item("data/p/a, b.jpg", "data/p/a, b.jpg", folder / "p/a, b.jpg", text='a "mug"'),
        Item("data/clip.mp4@0.5s-1s", "data/clip.mp4", folder / "clip.mp4", 0.5, 1.0),
        Item("mine", "data/clip.mp4", folder / "clip.mp4", 1.0, 1.0),
        Item("top.jpg", "top.jpg", Path("top.jpg")),  # not beside the table, so as it stands
        Item("data/missing.jpg", "data/missing.jpg", folder / "missing.jpg"),
        Item(f"data/{name}:6", f"data/{name}", text="only words"),
        Item("https://example.com/a.jpg", "https://example.com/a.jpg", "https://example.com/a.jpg"),
    ]
    assert [item.media().kind for item in items[:4]] == ["image", "video", "video", "image"]
    assert open_media(items[5].media()) == "only words"
    with pytest.raises(InputError, match="is a text, not a file"):
        items[5].open()


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.jsonl"])
def test_columns_of_texts(name: str, here: Path) -> None:
    """They are the same for what is embedded, packed, trained on and evaluated."""
    write(["a.jpg"])
    for column in TEXT_COLUMNS:
        write_table(name, [{"path": "a.jpg", column: "a mug"}])
        (row,) = read_rows(Path(name))
        assert isinstance(row, Row) and row.text == "a mug"
        assert load_captions(Path(name)).captions == (("a mug",),)


def test_a_table_without_paths_or_texts(here: Path) -> None:
    name = "t.parquet"
    write_table(name, [{"name": "a.jpg", "width": 3}] * 5)
    (reason,) = reasons(name)
    assert reason.startswith(f"{name}: has no column 'path' (or") and reason.endswith("but 'name', 'width'")


def test_bad_rows_are_reported_one_by_one(here: Path) -> None:
    write(["a.jpg"])
    good = b'{"path": "a.jpg"}\n'
    Path("t.jsonl").write_bytes(
        good
        + b"no json\n\n"
        + b"[1]\n"
        + b'{"path": 3}\n'
        + b'{"other": 1}\n'
        + b'{"path": "a.jpg", "start": "x"}\n'
        + good
    )
    found = reasons("t.jsonl")
    assert found[0] == found[-1] == "image"
    assert found[1].startswith("t.jsonl:2: is not JSON: ")
    assert found[2:-1] == [
        "t.jsonl:4: is not a JSON object",
        "t.jsonl:5: its path or text is of type int, not a string",
        "t.jsonl:6: has neither a path nor a text",
        "t.jsonl:7: its start is 'x', not a number of seconds",
    ]
    Path("t.csv").write_text('path,start\na.jpg,\n,\n"' + "x" * 200_000 + '",\na.jpg,\n', encoding="utf-8")
    found = reasons("t.csv")
    assert found == [
        "image",
        "t.csv:3: has neither a path nor a text",
        "t.csv:4: field larger than field limit (131072)",
        "image",
    ]


def test_a_table_that_is_none(here: Path) -> None:
    Path("t.parquet").write_bytes(b"no parquet")
    assert reasons("t.parquet")[0].startswith("t.parquet: cannot be read: ")
    Path("t.csv").touch()
    assert reasons("t.csv") == ["t.csv: has no column 'path' (or 'file', 'image', 'video', 'url', 'text', …), but none"]
    assert reasons("missing.csv") == ["missing.csv: no such file"]


@posix_names
def test_a_table_may_hold_names_that_are_not_utf8(here: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        write([name])
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    Path("t.csv").write_bytes(b"\xef\xbb\xbfpath\ncaf\xe9.jpg\n")
    (item,) = list_items(["t.csv"])
    assert item.id == r"caf\xe9.jpg" and item.media().kind == "image"


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.parquet", "t.jsonl"])
def test_all_cells_of_a_table(name: str, here: Path) -> None:
    write_table(name, [{" Label": "cat", "Path": "a.jpg"}, {" Label": "dog", "Path": "b.jpg"}])
    rows = read_table(Path(name))
    assert rows == [{"label": "cat", "path": "a.jpg"}, {"label": "dog", "path": "b.jpg"}]
    assert find_column(rows[0], ("class", "label"), Path(name), "labels") == "label"
    with pytest.raises(DataError, match=f"{name} has no column 'class' for labels, but 'label', 'path'"):
        find_column(rows[0], ("class",), Path(name), "labels")


def test_rows_with_more_cells_than_columns_are_bad(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text('Question,answer\n"a, b",c\na, b,c\nd,e\n')
    good, bad, last = iterate_table(path)
    assert (good, last) == (
        (f"{path}:2", {"question": "a, b", "answer": "c"}),
        (f"{path}:4", {"question": "d", "answer": "e"}),
    )
    assert str(bad) == f"{path}:3: has more cells than columns; quote cells that hold the separator"
    with pytest.raises(DataError, match=r"cells\.csv:3 .*more cells than columns"):
        read_table(path)


def write_images(path: Path, cells: list) -> Path:
    rows = [{"id": number, "image": cell} for number, cell in enumerate(cells)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


@pytest.mark.parametrize("wrap", [lambda content: {"bytes": content, "path": "a.png"}, lambda content: content])
def test_rows_and_their_images(tmp_path: Path, wrap) -> None:
    path = write_images(tmp_path / "a.parquet", [wrap(f"image {n}".encode()) for n in range(5)])
    rows = list(read_image_table(path, ("picture", "image")))
    assert [(name, cells) for name, cells, _ in rows] == [(f"{path}:{n + 1}", {"id": n}) for n in range(5)]
    assert [image.read() for *_, image in reversed(rows)] == [f"image {n}".encode() for n in (4, 3, 2, 1, 0)]


def test_images_are_read_by_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(read_image_table(write_images(tmp_path / "b.parquet", [b"x"] * 6), ("image",)))
    groups = []
    read = pq.ParquetFile.read_row_group

    def count(self, group, **options):
        groups.append((group, options["columns"]))
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    assert [image.read() for *_, image in rows] == [b"x"] * 6
    assert groups == [(0, ["image"]), (1, ["image"]), (2, ["image"])]


def test_an_empty_cell_and_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write_images(tmp_path / "c.parquet", [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": None}])
    (*_, empty), (*_, full) = read_image_table(path, ("image",))
    with pytest.raises(MediaDecodeError, match=r"c\.parquet: row 0 of group 0"):
        empty.read()
    assert full.read() == b"x"
    ((*_, other),) = read_image_table(write_images(tmp_path / "d.parquet", [b"x"]), ("image",))
    other.path.unlink()
    with pytest.raises(MediaDecodeError, match="cannot be read"):
        other.read()
