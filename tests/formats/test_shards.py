"""Shards: what is written is read again, whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import ShardSample, find_shards, json_bytes, read_shard
from synthetic.shards import read_metadata, write_shard
from tests.data.tars import write_tar

SAMPLES = [
    ShardSample("a/b.c", "png", b"one", {"source": "s", "label": "cat"}),
    ShardSample("d", "jpg", b"", {"source": "s", "label": "café", "tags": ["x"]}),
]


def test_round_trip_keeps_order_and_content(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.tar"
    sample = ShardSample("a/b", "png", b"one", {"source": "s", "label": "cat"})
    assert write_shard(path, [sample, SAMPLES[1]]) == 2
    assert list(read_shard(path)) == [sample, SAMPLES[1]]
    assert list(read_metadata(path)) == [("a/b", sample.metadata), ("d", SAMPLES[1].metadata)]
    assert (sample.source, sample.label) == ("s", "cat")


def test_the_same_samples_make_the_same_bytes(tmp_path: Path) -> None:
    metadata = SAMPLES[1].metadata
    for name, fields in (("x.tar", metadata), ("y.tar", dict(reversed(metadata.items())))):
        write_shard(tmp_path / name, [ShardSample("d", "jpg", b"", fields)])
    assert (tmp_path / "x.tar").read_bytes() == (tmp_path / "y.tar").read_bytes()


def test_texts_are_stored_as_utf8_and_what_is_not_utf8_is_escaped() -> None:
    """A file name that is not UTF-8 has lone surrogates in Python."""
    assert json_bytes({"label": "café"}) == '{"label": "café"}'.encode()
    assert json.loads(json_bytes({"source": os.fsdecode(b"\xff.jpg")}))["source"] == "\udcff.jpg"


def test_a_write_that_stops_leaves_nothing(tmp_path: Path) -> None:
    def stops() -> Iterator[ShardSample]:
        yield SAMPLES[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "x.tar", stops())
    assert list(tmp_path.iterdir()) == []


def test_other_members_are_passed_over_and_parts_may_come_in_any_order(tmp_path: Path) -> None:
    text = b'{"source": "s", "label": "l"}'
    members = {"README.md": b"", "k.json": text, "k.cls": b"1", "k.JPG": b"picture"}
    [sample] = read_shard(write_tar(tmp_path / "x.tar", members))
    assert (sample.key, sample.extension, sample.image) == ("k", "jpg", b"picture")


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"k.jpg": b""}, "lack an image or a .json; the first is k"),
        ({"k.json": b'{"source": "s", "label": "l"}'}, "the first is k"),
        ({"k.jpg": b"", "k.json": b"{"}, r"k\.json is not JSON"),
        ({"k.jpg": b"", "k.json": b"[]"}, r"k\.json is not a JSON object"),
        ({"k.jpg": b"", "k.json": b'{"source": "s", "label": null}'}, r"k\.json: `label` is missing or null"),
        ({"k.jpg": b"", "k.json": b"[" * 100_000}, r"k\.json is not JSON"),
        ({"k.jpg": b"", "k.json": b'{"label": "l"}'}, "`source`"),
    ],
)
def test_incomplete_samples_are_data_errors(tmp_path: Path, members: dict[str, bytes], match: str) -> None:
    with pytest.raises(DataError, match=match):
        list(read_shard(write_tar(tmp_path / "x.tar", members)))


def test_a_missing_or_cut_or_foreign_file_is_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with pytest.raises(DataError, match=r"x\.tar"):
        list(read_shard(path))
    write_shard(path, [ShardSample("k", "png", bytes(5000), {"source": "s", "label": "l"})])
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="not a readable tar"):
        list(read_shard(path))
    path.write_bytes(b"no tar at all" * 100)
    with pytest.raises(DataError, match="not a readable tar"):
        list(read_metadata(path))


def test_shards_are_a_tar_or_a_folder_of_tars(make_shard, tmp_path: Path) -> None:
    whole = make_shard("x/train.tar", [("s", "l")])
    parts = [make_shard(f"x/train/{name}.tar", [("s", "l")]) for name in ("a", "b")]
    assert find_shards(tmp_path / "x", "train") == [whole, *parts]
    assert find_shards(parts[0], "train") == [parts[0]]


@pytest.mark.parametrize(
    ("place", "match"), [("x", r"no val\.tar"), ("x/test.tar", "'test'"), ("x/unseen/s.tar", "'unseen'")]
)
def test_absent_and_other_splits_are_data_errors(make_shard, tmp_path: Path, place: str, match: str) -> None:
    make_shard("x/test.tar", [("s", "l")])
    make_shard("x/unseen/s.tar", [("s", "l")])
    with pytest.raises(DataError, match=match):
        find_shards(tmp_path / place, "val")
    with pytest.raises(DataError, match="known: train, val, test, unseen"):
        find_shards(tmp_path / "x", "dev")
