"""Labelled pictures for evaluation, and which of their classes are never trained on.

The ten classes of Caltech-101 whose label has the smallest SHA-256 are the public unseen classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from perception_encoder.formats.entries import id_field
from perception_encoder.formats.media_directory import Source
from perception_encoder.formats.shards import read_metadata, read_shard
from perception_encoder.formats.splits import SPLITS, find_shards, shards_below

UNSEEN_SOURCE = "caltech101"
UNSEEN_CLASSES = 10
UNSEEN_LABELS = frozenset(
    {"airplane", "cannon", "cougar", "crocodile", "flamingo", "hedgehog", "mandolin", "menorah"}
    | {"wild cat", "windsor chair"}
)
"""Those classes, for where only some of the labels are at hand."""


@dataclass(frozen=True)
class LabelledPictures:
    """One classification task."""

    name: str
    """The source, with `/coarse` for its coarse labels and `/unseen` for classes never trained on."""
    keys: tuple[str, ...]
    pictures: tuple[Source, ...]
    """The files as stored, undecoded, or where they are; videos, too."""
    labels: tuple[str, ...]
    choices: tuple[str, ...] = ()
    """The classes to choose from, where they are not just the labels that occur."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What prompts call a class; itself where it has none here."""
    accepted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The classes that are right for a label, where they are of another set; else the label is its own class."""
    trim: int = 0
    """Pixels that are cut off each side of a picture before anything else."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes to choose from: the labels, each once, sorted, or `choices`."""
        return self.choices or tuple(sorted(set(self.labels)))


def smallest_hashes(labels: Iterable[str], count: int = UNSEEN_CLASSES) -> frozenset[str]:
    """The `count` labels whose SHA-256 hex digest is smallest."""
    return frozenset(sorted(set(labels), key=lambda label: hashlib.sha256(label.encode()).hexdigest())[:count])


def find_unseen_labels(place: Path) -> frozenset[tuple[str, str]]:
    """The (source, label) pairs never trained on, out of the labels of all splits in the folder `place`.

    For a tar file they are those of the folder that holds its splits.
    """
    folder = place
    if place.suffix == ".tar":
        folder = place.parent.parent if place.parent.name in SPLITS else place.parent
    shards = {shard for split in SPLITS for shard in shards_below(folder, split)}
    shards |= {place} - {folder}
    labels: set[str] = set()
    for shard in shards:
        found = (metadata for _, metadata in read_metadata(shard))
        labels |= {str(m.get("label")) for m in found if m.get("source") == UNSEEN_SOURCE}
    return frozenset((UNSEEN_SOURCE, label) for label in smallest_hashes(labels))


def load_labelled(folder: Path, split: str = "test") -> dict[str, LabelledPictures]:
    """Read a split as classification tasks by name, sorted.

    Every source is one; one whose samples have a `coarse` label is also `NAME/coarse`, and the unseen classes
    are a task of their own, `NAME/unseen`, which `NAME` then lacks.
    """
    unseen = find_unseen_labels(folder)
    rows: dict[str, list[tuple[str, bytes, str]]] = {}
    for shard in find_shards(folder, split):
        for sample in read_shard(shard):
            name = f"{sample.source}/unseen" if (sample.source, sample.label) in unseen else sample.source
            rows.setdefault(name, []).append((sample.key, sample.image, sample.label))
            if "coarse" in sample.metadata:
                coarse = str(id_field(sample.metadata, "coarse", f"{shard}: {sample.key}.json"))
                rows.setdefault(f"{sample.source}/coarse", []).append((sample.key, sample.image, coarse))
    tasks = {}
    for name in sorted(rows):
        keys, pictures, labels = zip(*rows[name], strict=True)
        tasks[name] = LabelledPictures(name, keys, pictures, labels)
    return tasks
