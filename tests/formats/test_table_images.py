"""Images in the cells of Parquet files."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.formats.tables import TableImage, read_image_table


def write(path: Path, cells: list) -> Path:
    rows = [{"id": number, "image": cell} for number, cell in enumerate(cells)]
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


@pytest.mark.parametrize("wrap", [lambda content: {"bytes": content, "path": "a.png"}, lambda content: content])
def test_rows_and_their_images(tmp_path: Path, wrap) -> None:
    path = write(tmp_path / "a.parquet", [wrap(f"image {n}".encode()) for n in range(5)])
    rows = list(read_image_table(path, ("picture", "image")))
    assert [(name, cells) for name, cells, _ in rows] == [(f"{path}:{n + 1}", {"id": n}) for n in range(5)]
    assert [image.read() for *_, image in reversed(rows)] == [f"image {n}".encode() for n in (4, 3, 2, 1, 0)]


def test_images_are_read_by_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(read_image_table(write(tmp_path / "b.parquet", [b"x"] * 6), ("image",)))
    groups = []
    read = pq.ParquetFile.read_row_group

    def count(self, group, **options):
        groups.append((group, options["columns"]))
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    assert [image.read() for *_, image in rows] == [b"x"] * 6
    assert groups == [(0, ["image"]), (1, ["image"]), (2, ["image"])]


def test_an_empty_cell_and_a_file_that_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path / "c.parquet", [{"bytes": None, "path": "a.png"}, {"bytes": b"x", "path": None}])
    (*_, empty), (*_, full) = read_image_table(path, ("image",))
    with pytest.raises(MediaDecodeError, match=r"c\.parquet: row 0 of group 0: has no image in the column 'image'"):
        empty.read()
    assert full.read() == b"x"
    ((*_, other),) = read_image_table(write(tmp_path / "d.parquet", [b"x"]), ("image",))
    other.path.unlink()
    with pytest.raises(MediaDecodeError, match="cannot be read"):
        other.read()


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "e.parquet"
    with pytest.raises(DataError, match=r"e\.parquet cannot be read"):
        list(read_image_table(path, ("image",)))
    path.write_bytes(b"no table")
    with pytest.raises(DataError, match=r"e\.parquet cannot be read"):
        list(read_image_table(path, ("image",)))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(DataError, match="has no column 'image' or 'images' for images, but 'a'"):
        list(read_image_table(path, ("image", "images")))


def test_one_of_several_images_in_a_cell(tmp_path: Path) -> None:
    path = write(tmp_path / "g.parquet", [[{"bytes": b"0"}, {"bytes": b"1"}], [{"bytes": b"2"}]])
    assert [TableImage(path, 0, *at).read() for at in ((0, "image", 1), (1, "image", 0))] == [b"1", b"2"]
    with pytest.raises(MediaDecodeError, match="cannot be read"):
        TableImage(path, 0, 1, "image", 1).read()
