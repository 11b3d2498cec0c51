"""A split of labelled shards becomes classification tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perception_encoder.datasets.labelled import load_labelled
from synthetic.builtin.held_out import UNSEEN_LABELS, find_unseen_labels
from tests.datasets.drawn import pairs, rooms


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
