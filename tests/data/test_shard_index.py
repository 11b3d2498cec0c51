"""The index of a shard: the samples that webdataset reads, cached, and made again if the shard has changed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from webdataset.tariterators import group_by_keys, tar_file_iterator

from perception_encoder.data import shard_index
from perception_encoder.data.shard_index import load_table
from perception_encoder.errors import DataError, MediaDecodeError
from tests.data.tars import write_pairs
from tests.data.test_streams import caches, load_all, streams

__all__ = ["caches"]


def test_a_shard_reads_as_webdataset_reads_it(tmp_path: Path) -> None:
    path = write_pairs(tmp_path / "x.tar", range(9))
    table = load_table(str(path), ("txt",))
    with path.open("rb") as stream:
        theirs = list(group_by_keys({"__url__": "", **file} for file in tar_file_iterator(stream)))
    assert table.keys == [sample["__key__"] for sample in theirs]
    for row, sample in enumerate(theirs):
        assert table.read(row, ("txt",)) == {"image": sample["png"], "txt": sample["txt"]}


def test_a_table_is_made_once_and_again_for_a_shard_that_changed(
    tmp_path: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    make = shard_index._make_table
    monkeypatch.setattr(shard_index, "_make_table", lambda url, *rest: made.append(url) or make(url, *rest))
    path = write_pairs(tmp_path / "x.tar", range(5))
    first, again = streams(path)[0], streams(path)[0]
    assert made == [str(path)] and (len(first), len(again)) == (5, 5)
    write_pairs(path, range(6))
    assert len(streams(path)[0]) == 6 and len(made) == 2
    assert len(list(caches.rglob("*.parquet"))) == 2


def test_a_damaged_table_is_made_anew(tmp_path: Path, caches: Path) -> None:
    path, chance = write_pairs(tmp_path / "x.tar", range(5)), random.Random(2504)
    expected = [pair.captions for pair in load_all(streams(path)[0])]
    (table,) = caches.rglob("*.parquet")
    whole = table.read_bytes()
    for _ in range(40):
        at = chance.randrange(len(whole))
        table.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        load_table.cache_clear()
        try:
            assert [pair.captions for pair in load_all(streams(path)[0])] == expected
        except (DataError, MediaDecodeError):  # of what the checksums of its pages do not cover
            table.unlink()
    for odd in (b"", b"PAR1", whole[:-20]):
        table.write_bytes(odd)
        load_table.cache_clear()
        assert len(streams(path)[0]) == 5
