"""What the built-in model is never trained on: ten classes of Caltech-101, and whole sources.

The ten classes of Caltech-101 whose label has the smallest SHA-256 are the public unseen classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from perception_encoder.formats.shards import SPLITS, shards_below
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
