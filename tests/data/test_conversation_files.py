"""Files of conversations: where objects lie, and files that cannot be read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from perception_encoder.data import conversation_files
from perception_encoder.data.conversation_files import JsonLines, ParquetRecords, ShardRecords, StoredRecords
from perception_encoder.data.conversation_records import Record
from perception_encoder.errors import DataError, InputError
from tests.data.tars import image_bytes, write_tar


def objects(seed: int) -> list[dict]:
    draw = random.Random(seed)
    return [{"id": n, "text": "".join(draw.choices('aé€😀"\\\n[]{}, ', k=draw.randint(0, 9)))} for n in range(30)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [1, 7, 1 << 22])
def test_records_are_found_by_their_bytes(seed: int, block: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(conversation_files, "_BLOCK", block)
    expected, escaped = objects(seed), seed % 2 == 0
    lines = [json.dumps(item, ensure_ascii=escaped) for item in expected]
    mark, end = "\ufeff" * (seed % 3 == 0), "\n" * (seed < 2)
    (tmp_path / "a.jsonl").write_text(mark + "\r\n\n".join(lines) + end, encoding="utf-8", newline="")
    file = JsonLines(tmp_path / "a.jsonl")
    scanned = list(file.scan())
    assert [record.fields for _, record in scanned if isinstance(record, Record)] == expected
    for number in (29, 0, 13):
        row, record = scanned[number]
        assert file.read(row) == record
        assert record.where == f"{tmp_path}/a.jsonl:{2 * number + 1}" and record.key == f"a.jsonl:{2 * number + 1}"


def test_a_json_list(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('\ufeff[{"id": 1}, 2]')
    (_, record), (_, error) = StoredRecords(tmp_path / "a.json").scan()
    assert isinstance(record, Record) and (record.fields, record.key) == ({"id": 1}, "a.json[0]")
    assert str(error) == f"{tmp_path}/a.json[1]: is not a JSON object"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no table PAR1")
    (tmp_path / "a.tar").write_bytes(b"no tar")
    (tmp_path / "a.csv").write_bytes("question,answer\nQ,A\nQ,\xe9\n".encode("latin-1"))
    (tmp_path / "cut.json").write_text("[1, 2")
    (tmp_path / "lines.json").write_text("{}")
    write_tar(tmp_path / "b.tar", {"a.png": image_bytes(1), "a.txt": b"no JSON"})
    for kind, name, reason in (
        (ParquetRecords, "a.parquet", "cannot be read"),
        (ShardRecords, "a.tar", "cannot be read"),
        (StoredRecords, "a.csv", "cannot be read: 'utf-8' codec can't decode"),
        (ShardRecords, "b.tar", r"has no samples with an image or video and a \.json"),
        (JsonLines, "none.jsonl", "cannot be read: No such file"),
        (StoredRecords, "cut.json", "cannot be read as JSON"),
        (StoredRecords, "lines.json", "is not a JSON list; JSON in lines needs the suffix"),
    ):
        with pytest.raises(DataError, match=rf"{name}:? {reason}"):
            list(kind(tmp_path / name).scan())


def test_a_shard_with_a_bad_sample(tmp_path: Path) -> None:
    members = {}
    for key, content in (
        ("a", b"{"),
        ("b", b"{}"),
        ("c", b'{"questions": 1}'),
        ("d", b'{"question": "Q", "answer": "A"}'),
    ):
        members |= {f"{key}.png": image_bytes(1), f"{key}.json": content}
    *bad, (row, record) = ShardRecords(write_tar(tmp_path / "a.tar", members)).scan()
    assert "a.tar/a: is not JSON: Expecting property name enclosed in double quotes" in str(bad[0][1])
    assert [str(error) for _, error in bad[1:]] == [
        f"{tmp_path}/a.tar/{key}: its .json has no conversation; add one of conversations, messages, texts, question"
        for key in "bc"
    ]
    assert isinstance(record, Record) and record.key == "d" and row == 3


def test_samples_of_another_kind_are_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Videos among images were left out without a word."""
    text = b'{"question": "Q", "answer": "A"}'
    members = {"a.png": image_bytes(1), "a.json": text, "b.mp4": b"video", "b.json": text, "c.png": image_bytes(2)}
    assert ShardRecords(write_tar(tmp_path / "a.tar", members)).count == 1
    assert "a.tar: left out 2 samples without image and .json" in caplog.text


def test_parquet_reads_no_images_but_those_that_are_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [{"image": {"bytes": bytes([n]), "path": None}, "question": "Q", "extra": "x"} for n in range(6)]
    pq.write_table(pa.Table.from_pylist(cells), tmp_path / "a.parquet", row_group_size=3)
    columns, read = [], pq.ParquetFile.read_row_group

    def count(self, group, **options):
        columns.append((group, options["columns"]))
        return read(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    file = ParquetRecords(tmp_path / "a.parquet")
    records = [record for _, record in file.scan()]
    assert columns == [(0, ["image.path", "question"]), (1, ["image.path", "question"])]
    assert records[4].fields["image"].read() == b"\x04" and columns[2:] == [(1, ["image"])]
    assert file.edges.tolist() == [0, 3, 6]
    (tmp_path / "a.parquet").unlink()
    conversation_files._read_group.cache_clear()
    with pytest.raises(InputError, match=r"a\.parquet:5: cannot be read"):
        file.read(4)
