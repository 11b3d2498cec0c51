"""A split of labelled shards becomes classification tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from perception_encoder.datasets.labelled import load_labelled
from tests.datasets.drawn import pairs, rooms


def test_every_source_is_a_task(make_shard, tmp_path: Path) -> None:
    make_shard("x/test.tar", [("toys", "red cup"), ("toys", "blue cup"), ("grocery", "royal gala")])
    tasks = load_labelled(tmp_path / "x")
    assert {name: task.labels for name, task in tasks.items()} == {
        "grocery": ("royal gala",),
        "toys": ("red cup", "blue cup"),
    }
    assert tasks["grocery"].images[0].startswith(b"\x89PNG") and tasks["toys"].select([1]).labels == ("blue cup",)


def test_a_part_has_all_fields_of_its_images() -> None:
    whole = replace(pairs("a", rooms(5, 0)), blocks=tuple("xxyyz"))
    part = whole.select([3, 1])
    assert (part.keys, part.blocks, part.per_metre) == (("a3", "a1"), ("y", "x"), whole.per_metre)
    assert part.depths == (whole.depths[3], whole.depths[1]) and part.images == (whole.images[3], whole.images[1])
