"""Labelled images and videos, and their reader for shards: KEY.jpg with KEY.json (`source`, `label`, `coarse`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from perception_encoder.formats.entries import id_field
from perception_encoder.formats.media_directory import MediaSource
from perception_encoder.formats.shards import find_shards, read_shard

FindHeldOut = Callable[[Path], frozenset[tuple[str, str]]]
"""Returns the (source, label) pairs of a directory that a model is never trained on."""


@dataclass(frozen=True)
class LabelledImages:
    """One classification task."""

    name: str
    """The source, with `/coarse` for its coarse labels and `/unseen` for held-out classes."""
    keys: tuple[str, ...]
    images: tuple[MediaSource, ...]
    """Undecoded images and videos, or their files."""
    labels: tuple[str, ...]
    choices: tuple[str, ...] = ()
    """The classes to choose from, if they are not just the labels that occur."""
    names: Mapping[str, str] = field(default_factory=dict)
    """The name of a class in prompts; itself by default."""
    accepted: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """The classes that are right for a label, if they are of another set; else the label is its own class."""
    trim: int = 0
    """Pixels that are cut off each side of an image before anything else."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes to choose from: the labels, each once, sorted, or `choices`."""
        return self.choices or tuple(sorted(set(self.labels)))

    def select(self, rows: Sequence[int]) -> LabelledImages:
        """Return the task of these items."""
        return replace(
            self,
            keys=tuple(self.keys[row] for row in rows),
            images=tuple(self.images[row] for row in rows),
            labels=tuple(self.labels[row] for row in rows),
        )


def load_labelled(path: Path, split: str = "test", held_out: FindHeldOut | None = None) -> dict[str, LabelledImages]:
    """Read a split of shards as classification tasks by name, sorted.

    Every source is one; one whose samples have a `coarse` label is also `NAME/coarse`. `held_out` classes are a task of
    their own, `NAME/unseen`, which `NAME` then lacks. Errors as those of `find_shards` and `read_shard`.
    """
    unseen = held_out(path) if held_out else frozenset()
    rows: dict[str, list[tuple[str, bytes, str]]] = {}
    for shard in find_shards(path, split):
        for sample in read_shard(shard):
            name = f"{sample.source}/unseen" if (sample.source, sample.label) in unseen else sample.source
            rows.setdefault(name, []).append((sample.key, sample.image, sample.label))
            if "coarse" in sample.metadata:
                coarse = str(id_field(sample.metadata, "coarse", f"{shard}: {sample.key}.json"))
                rows.setdefault(f"{sample.source}/coarse", []).append((sample.key, sample.image, coarse))
    tasks = {}
    for name in sorted(rows):
        keys, images, labels = zip(*rows[name], strict=True)
        tasks[name] = LabelledImages(name, keys, images, labels)
    return tasks
