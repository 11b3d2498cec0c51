"""What the built-in model is never trained on: ten classes of Caltech-101, and whole sources.

The ten classes of Caltech-101 whose label has the smallest SHA-256 are the public unseen classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from perception_encoder.datasets.labelled import LabelledImages, load_labelled
from perception_encoder.formats.shards import SPLITS, find_shards, shards_below
from synthetic.drawings.sources import SOURCES
from synthetic.shards import read_metadata

UNSEEN_SOURCE = "caltech101"
UNSEEN_CLASSES = 10
UNSEEN_LABELS = frozenset(
    {"airplane", "cannon", "cougar", "crocodile", "flamingo", "hedgehog", "mandolin", "menorah"}
    | {"wild cat", "windsor chair"}
)
"""Those classes, for callers that have only some of the labels."""

NEVER_TRAINED = frozenset(source.name for source in SOURCES if source.split == "unseen")
"""The sources of which nothing is trained on."""


def smallest_hashes(labels: Iterable[str], count: int = UNSEEN_CLASSES) -> frozenset[str]:
    """Return the `count` labels whose SHA-256 hex digest is smallest."""
    return frozenset(sorted(set(labels), key=lambda label: hashlib.sha256(label.encode()).hexdigest())[:count])


def find_unseen_labels(path: Path) -> frozenset[tuple[str, str]]:
    """Return the (source, label) pairs never trained on, out of the labels of all splits in a directory.

    For a tar file they are those of the directory that holds its splits.
    """
    directory = path
    if path.suffix == ".tar":
        directory = path.parent.parent if path.parent.name in SPLITS else path.parent
    shards = {shard for split in SPLITS for shard in shards_below(directory, split)}
    shards |= {path} - {directory}
    labels: set[str] = set()
    for shard in shards:
        samples = (metadata for _, metadata in read_metadata(shard))
        labels |= {str(sample.get("label")) for sample in samples if sample.get("source") == UNSEEN_SOURCE}
    return frozenset((UNSEEN_SOURCE, label) for label in smallest_hashes(labels))


def load_suite(path: Path, split: str = "test") -> dict[str, LabelledImages]:
    """Read a split's tasks by name: `NAME/unseen` has a source's unseen classes, `NAME/coarse` its coarse labels."""
    unseen = find_unseen_labels(path)
    coarse = {
        (metadata["source"], key): str(metadata["coarse"])
        for shard in find_shards(path, split)
        for key, metadata in read_metadata(shard)
        if "coarse" in metadata
    }
    tasks: dict[str, LabelledImages] = {}
    for name, task in load_labelled(path, split).items():
        apart = {row for row, label in enumerate(task.labels) if (name, label) in unseen}
        labels = [coarse.get((name, key), "") for key in task.keys]
        tasks |= {
            name: task.select([row for row in range(len(task.keys)) if row not in apart]),
            f"{name}/unseen": task.select(sorted(apart)),
            f"{name}/coarse": replace(task, labels=tuple(labels)).select([n for n, text in enumerate(labels) if text]),
        }
    return {name: replace(tasks[name], name=name) for name in sorted(tasks) if tasks[name].keys}
