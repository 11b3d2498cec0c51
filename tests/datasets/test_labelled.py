"""A split of labelled shards becomes classification tasks."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.datasets.labelled import load_labelled

# The ten of Caltech-101's classes that the data's README fixes, among some that it does not.
UNSEEN = ["airplane", "cannon", "cougar", "crocodile", "flamingo", "hedgehog", "mandolin", "menorah", "wild cat"]
UNSEEN.append("windsor chair")
SEEN = ["accordion", "anchor", "ant", "barrel", "bass", "beaver", "leopard", "motorbike", "watch", "wrench"]


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
