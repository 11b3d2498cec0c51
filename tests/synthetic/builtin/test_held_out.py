"""The built-in model is never trained on ten classes of Caltech-101, chosen by hash, nor on whole sources."""

from __future__ import annotations

from pathlib import Path

from synthetic.builtin.held_out import (
    NEVER_TRAINED,
    UNSEEN_LABELS,
    find_unseen_labels,
    smallest_hashes,
)

SEEN = ["accordion", "anchor", "ant", "barrel", "bass", "beaver", "leopard", "motorbike", "watch", "wrench"]


def test_the_unseen_classes_are_those_of_the_smallest_hash() -> None:
    assert smallest_hashes([*SEEN, *UNSEEN_LABELS, "anchor"]) == UNSEEN_LABELS
    assert smallest_hashes(["a", "b", "c"], 1) == {"c"}  # ca97…, 3e23…, 2e7d…


def test_unseen_labels_are_those_of_all_splits_together(make_shard, tmp_path: Path) -> None:
    train = make_shard("x/train.tar", [("caltech101", label) for label in SEEN] + [("flowers", "rose")])
    make_shard("x/test.tar", [("caltech101", label) for label in sorted(UNSEEN_LABELS)])
    expected = {("caltech101", label) for label in UNSEEN_LABELS}
    assert find_unseen_labels(tmp_path / "x") == expected
    assert find_unseen_labels(train) == expected


def test_the_sources_that_are_never_trained_on() -> None:
    assert {"openmoji"} == NEVER_TRAINED


def test_the_unseen_classes_of_the_real_photographs(real_data: Path) -> None:
    assert {label for _, label in find_unseen_labels(real_data / "photos")} == UNSEEN_LABELS
