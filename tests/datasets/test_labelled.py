"""Splits are found by name, unseen classes by their hash, and a split becomes classification tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.datasets.labelled import find_shards, find_unseen_labels, load_labelled, smallest_hashes
from perception_encoder.errors import DataError

# The ten of Caltech-101's classes that the data's README fixes, among some that it does not.
UNSEEN = ["airplane", "cannon", "cougar", "crocodile", "flamingo", "hedgehog", "mandolin", "menorah", "wild cat"]
UNSEEN.append("windsor chair")
SEEN = ["accordion", "anchor", "ant", "barrel", "bass", "beaver", "leopard", "motorbike", "watch", "wrench"]


def test_the_unseen_classes_are_those_of_the_smallest_hash() -> None:
    assert smallest_hashes([*SEEN, *UNSEEN, "anchor"]) == set(UNSEEN)
    assert smallest_hashes(["a", "b", "c"], 1) == {"c"}  # ca97…, 3e23…, 2e7d…


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


def test_unseen_labels_are_those_of_all_splits_together(make_shard, tmp_path: Path) -> None:
    train = make_shard("x/train.tar", [("caltech101", label) for label in SEEN] + [("flowers", "rose")])
    make_shard("x/test.tar", [("caltech101", label) for label in UNSEEN])
    expected = {("caltech101", label) for label in UNSEEN}
    assert find_unseen_labels(tmp_path / "x") == expected
    assert find_unseen_labels(train) == expected


def test_tasks_of_a_split(make_shard, tmp_path: Path) -> None:
    make_shard("x/train.tar", [("caltech101", label) for label in SEEN + UNSEEN])
    make_shard(
        "x/test.tar", [("caltech101", "ant"), ("caltech101", "cougar"), ("grocery", "royal gala")], coarse="apple"
    )
    tasks = load_labelled(tmp_path / "x")
    assert {name: task.labels for name, task in tasks.items()} == {
        "caltech101": ("ant",),
        "caltech101/coarse": ("apple", "apple"),
        "caltech101/unseen": ("cougar",),
        "grocery": ("royal gala",),
        "grocery/coarse": ("apple",),
    }
    assert tasks["caltech101/coarse"].classes == ("apple",)
    assert tasks["grocery"].pictures[0].startswith(b"\x89PNG")


def test_the_real_photographs(real_data: Path) -> None:
    tasks = load_labelled(real_data / "photos")
    sizes = {name: (len(task.labels), len(task.classes)) for name, task in tasks.items()}
    assert sizes == {
        "caltech101": (1649, 71),
        "caltech101/unseen": (376, 10),
        "clothing": (1556, 17),
        "flowers": (885, 4),
        "grocery": (2485, 81),
        "grocery/coarse": (2485, 43),
    }
    assert set(tasks["caltech101/unseen"].classes) == set(UNSEEN)
