"""A split of labelled shards becomes classification tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.image_set import ImageSet, keep_trained, read_integers
from perception_encoder.datasets.labelled import load_labelled
from perception_encoder.errors import DataError, MediaDecodeError
from synthetic.builtin.held_out import UNSEEN_LABELS, find_unseen_labels
from tests.datasets.drawn import drawn_masks, label_maps, pairs, rooms
from tests.evaluation.layers import png


def held_out(path: Path) -> frozenset[tuple[str, str]]:
    assert path.name == "x"
    return frozenset({("toys", "red cup")})


def test_tasks_of_a_split(make_shard, tmp_path: Path) -> None:
    rows = [("toys", "red cup"), ("toys", "blue cup"), ("grocery", "royal gala"), ("other", "red cup")]
    make_shard("x/test.tar", rows, coarse="apple")
    tasks = load_labelled(tmp_path / "x", held_out=held_out)
    assert {name: task.labels for name, task in tasks.items()} == {
        "grocery": ("royal gala",),
        "grocery/coarse": ("apple",),
        "other": ("red cup",),
        "other/coarse": ("apple",),
        "toys": ("blue cup",),
        "toys/coarse": ("apple", "apple"),
        "toys/unseen": ("red cup",),
    }
    assert tasks["toys/coarse"].classes == ("apple",)
    assert tasks["grocery"].images[0].startswith(b"\x89PNG")
    everything = load_labelled(tmp_path / "x")
    assert everything["toys"].labels == ("red cup", "blue cup") and "toys/unseen" not in everything
    assert everything["toys"].select([1]).labels == ("blue cup",)


def test_the_real_photographs(real_data: Path) -> None:
    tasks = load_labelled(real_data / "photos", held_out=find_unseen_labels)
    sizes = {name: (len(task.labels), len(task.classes)) for name, task in tasks.items()}
    assert sizes == {
        "caltech101": (1649, 71),
        "caltech101/unseen": (376, 10),
        "clothing": (1556, 17),
        "flowers": (885, 4),
        "grocery": (2485, 81),
        "grocery/coarse": (2485, 43),
    }
    assert set(tasks["caltech101/unseen"].classes) == UNSEEN_LABELS


def test_a_part_has_all_fields_of_its_images() -> None:
    whole = replace(pairs("a", rooms(5, 0)), sequences=tuple("xxyyz"))
    part = whole.select([3, 1])
    assert (part.keys, part.sequences, part.per_metre) == (("a3", "a1"), ("y", "x"), whole.per_metre)
    assert part.depths == (whole.depths[3], whole.depths[1]) and part.images == (whole.images[3], whole.images[1])
    assert pairs("a", rooms(2, 0)).select([1]).sequences == ()


def test_a_set_is_cut_at_three_fifths() -> None:
    train, test = ImageSet(name="n", keys=tuple("abcdefg"), images=(b"",) * 7).cut()
    assert (train.keys, test.keys) == (tuple("abcd"), tuple("efg"))


def test_only_classes_that_are_trained_on_are_kept() -> None:
    labels = label_maps(3, 0)
    train = drawn_masks("a", labels, [np.where(label == 2, 0, label) for label in labels])
    kept, test = keep_trained(train, drawn_masks("b", labels))
    assert kept.classes == test.classes == ("background", "chair") and test.labels(0).max() == 1
    only = drawn_masks("b", labels, [np.where(label == 1, 0, label) for label in labels])
    with pytest.raises(DataError, match="b: no object has a class that the training images show"):
        keep_trained(train, replace(only, numbers=({0: 0, 2: 2},) * 3))


def test_integers_of_one_channel() -> None:
    pixels, mode = read_integers(png(np.array([[1, 300]], np.uint16)), "d", ("I;16",), "")
    assert (pixels.tolist(), mode) == ([[1, 300]], "I;16")
    with pytest.raises(MediaDecodeError, match="d: has the mode RGB; depths must be 16-bit integers"):
        read_integers(png(np.zeros((2, 2, 3), np.uint8)), "d", ("I;16",), "depths must be 16-bit integers")
    with pytest.raises(MediaDecodeError, match="d: cannot be decoded"):
        read_integers(b"cut", "d", ("I;16",), "")
