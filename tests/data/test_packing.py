"""Folders and tables become shards: what is in them, always the same bytes, and what is left out and said."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pillow_heif
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from perception_encoder.data.packing import ShardSize, pack
from perception_encoder.errors import ConfigError, DataError, OutputError
from perception_encoder.formats.media_directory import list_media
from tests.data.tars import image_bytes


def read(directory: Path) -> list[dict[str, bytes]]:
    """The members of each shard, in order."""
    shards = []
    for path in sorted(directory.glob("*.tar")):
        with tarfile.open(path) as tar:
            shards.append({member.name: tar.extractfile(member).read() for member in tar})
    return shards


def captions(directory: Path) -> dict[bytes, bytes]:
    """The text of each picture, by its bytes."""
    members = {name: content for shard in read(directory) for name, content in shard.items()}
    keys = {name.partition(".")[0] for name in members}
    pairs = [[members[name] for name in sorted(members) if name.startswith(key)] for key in sorted(keys)]
    return dict(sorted(pair, key=lambda content: not content.startswith(b"\x89PNG")) for pair in pairs)


def write_directory(directory: Path, count: int) -> Path:
    directory.mkdir()
    for number in range(count):
        (directory / f"{number}.png").write_bytes(image_bytes(number))
        (directory / f"{number}.txt").write_text(f"number {number}")
    return directory


def test_pictures_with_texts_beside_them(tmp_path: Path) -> None:
    packed = pack(write_directory(tmp_path / "in", 7), tmp_path / "out", ShardSize(samples=3))
    assert (packed.shards, packed.samples, packed.failures) == (3, 7, ())
    assert captions(tmp_path / "out") == {image_bytes(n): f"number {n}".encode() for n in range(7)}
    shards = read(tmp_path / "out")
    assert [sorted(shard) for shard in shards][2] == ["00000006.png", "00000006.txt"]
    order = [content for shard in shards for name, content in shard.items() if name.endswith("txt")]
    assert order != sorted(order)
    pack(tmp_path / "in", tmp_path / "again", ShardSize(samples=3))
    for path in (tmp_path / "out").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()


def test_folders_are_labels_and_json_is_kept(tmp_path: Path) -> None:
    (tmp_path / "in" / "coffee_cup").mkdir(parents=True)
    (tmp_path / "in" / "coffee_cup" / "1.png").write_bytes(image_bytes(1))
    (tmp_path / "in" / "2.png").write_bytes(image_bytes(2))
    (tmp_path / "in" / "2.json").write_text('{"alt_text": "two"}')
    pack(tmp_path / "in", tmp_path / "out", ShardSize(samples=10))
    said = {image: json.loads(text) for image, text in captions(tmp_path / "out").items()}
    assert said == {image_bytes(1): {"source": "in", "label": "coffee cup"}, image_bytes(2): {"alt_text": "two"}}


def test_tables_of_paths_and_captions(tmp_path: Path) -> None:
    write_directory(tmp_path / "in", 3)
    rows = [{"path": f"in/{number}.png", "caption": f"it is {number}"} for number in range(3)]
    table = tmp_path / "table.parquet"
    pq.write_table(pa.Table.from_pylist(rows), table)
    assert pack(table, tmp_path / "out", ShardSize(samples=10)).samples == 3
    assert captions(tmp_path / "out") == {image_bytes(n): f"it is {n}".encode() for n in range(3)}


def test_large_pictures_are_scaled_and_small_ones_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "in" / "cup").mkdir(parents=True)
    small, large = image_bytes(1, "JPEG", (40, 30)), image_bytes(2, "JPEG", (256, 64))
    (tmp_path / "in" / "cup" / "small.jpg").write_bytes(small)
    (tmp_path / "in" / "cup" / "large.jpg").write_bytes(large)
    (tmp_path / "in" / "cup" / "other.bmp").write_bytes(image_bytes(3, "BMP", (10, 20)))
    pack(tmp_path / "in", tmp_path / "out", ShardSize(samples=10), side=32)
    contents = [content for name, content in read(tmp_path / "out")[0].items() if name.endswith(".jpg")]
    assert small in contents
    assert sorted(Image.open(io.BytesIO(content)).size for content in contents) == [(10, 20), (40, 30), (128, 32)]


def test_shards_by_megabytes(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "in", 3)
    for path in directory.glob("*.txt"):
        path.write_bytes(b"x" * 700_000)
    assert pack(directory, tmp_path / "out", ShardSize.parse("1MB")).shards == 2
    assert ShardSize.parse("20") == ShardSize(samples=20)
    for wrong in ("0", "5GB", ""):
        with pytest.raises(ConfigError, match="megabytes"):
            ShardSize.parse(wrong)


def test_bad_inputs_are_left_out_and_said(tmp_path: Path) -> None:
    directory = write_directory(tmp_path / "in", 3)
    (directory / "1.png").write_bytes(b"damaged")
    (directory / "2.txt").write_bytes(b"\xff")
    (directory / "3.png").write_bytes(image_bytes(3))
    packed = pack(directory, tmp_path / "out", ShardSize(samples=10))
    assert packed.samples == 1
    said = sorted(str(failure) for failure in packed.failures)
    assert len(said) == 3
    assert "1.png: is not an image" in said[0] and "2.txt: cannot be read" in said[1] and "no caption" in said[2]
    table = tmp_path / "table.csv"
    table.write_text("path,text\nin/0.png,\nin/0.png,zero\nhttps://a.b/c.png,c\nin/gone.png,g\n,only text\n")
    packed = pack(table, tmp_path / "more", ShardSize(samples=10))
    said = [str(failure) for failure in packed.failures]
    assert packed.samples == 1 and len(said) == 4
    assert any("table.csv:1: has no caption" in item for item in said)
    assert any("img2dataset" in item for item in said) and any("gone.png: no such file" in item for item in said)


def test_nothing_is_left_where_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "in"
    directory.mkdir()
    (directory / "1.png").write_bytes(b"damaged")
    (directory / "1.txt").write_text("one")
    with pytest.raises(DataError, match=r"1 inputs cannot be used.*1\.png"):
        pack(directory, tmp_path / "out", ShardSize(samples=10))
    with pytest.raises(OutputError, match="exists and is not empty"):
        pack(directory, directory, ShardSize(samples=10))
    with pytest.raises(DataError, match="neither a directory nor a table"):
        pack(directory / "1.png", tmp_path / "out", ShardSize(samples=10))

    def stops(items, description, total):
        yield from list(items)[:2]
        raise KeyboardInterrupt

    write_directory(tmp_path / "more", 3)
    with pytest.raises(KeyboardInterrupt):
        pack(tmp_path / "more", tmp_path / "out", ShardSize(samples=1), track=stops)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "more"]


def test_a_phone_s_heic_becomes_a_jpeg(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    pillow_heif.from_pillow(Image.new("RGB", (64, 48), "red")).save(tmp_path / "in" / "IMG_1.HEIC")
    (tmp_path / "in" / "IMG_1.txt").write_text("a red wall")
    assert list_media(tmp_path / "in") == [tmp_path / "in" / "IMG_1.HEIC"]
    assert pack(tmp_path / "in", tmp_path / "out", ShardSize(samples=3)).samples == 1
    ((image, text),) = [[shard[name] for name in sorted(shard)] for shard in read(tmp_path / "out")]
    assert text == b"a red wall" and image.startswith(b"\xff\xd8\xff")
