"""Shards of a split are found by name; a shard of another split is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.errors import DataError
from perception_encoder.formats.splits import find_shards, split_names


def test_names_of_one_split() -> None:
    assert split_names("val") == split_names("validation") == {"val", "valid", "validate", "validation"}
    assert split_names("testA") == {"testA"}


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
