"""Find which test images a model gets right: photographs, changed photographs, and drawings by their names.

Photographs are squashed and classified zero-shot with the prompts `photo`; every third of them is also changed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.robustness import CHANGES, ChangedEmbeddings
from perception_encoder.datasets.labelled import LabelledImages, load_labelled
from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification.zero_shot import ZeroShotClassifier
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.statistics.scores import ItemScores, estimate_difference, measure
from perception_encoder.inference.encoder import Encoder
from perception_encoder.progress import Track, untracked
from synthetic.builtin.held_out import load_suite

PHOTOS, DRAWINGS = "photos", "drawings by name"
EVERY = 3  # of the changed photographs


@dataclass(frozen=True)
class Outcome:
    """Which images of a task a model got right."""

    task: str
    """Its source leads, before a `/`."""
    keys: tuple[str, ...]
    labels: tuple[str, ...]
    right: np.ndarray
    """bool (n,)."""

    def shares(self) -> np.ndarray:
        """Return what each image, if it is right, adds to the mean class accuracy, (n,)."""
        counts = Counter(self.labels)
        return np.array([1 / (len(counts) * counts[label]) for label in self.labels])


Outcomes = dict[str, list[Outcome]]
"""By set, one for each of its tasks."""


def average(name: str, sets: Sequence[Sequence[Outcome]]) -> ItemScores:
    """Score the mean over sets of the mean over a set's tasks of the mean class accuracy.

    An image's part is the sum of what it adds to each task if it is right. Images, not tasks, are resampled, within
    each source: one that serves several tasks or stands changed in several sets is resampled in all of them together.
    """
    parts: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    used: dict[str, dict[str, str]] = defaultdict(lambda: defaultdict(str))
    for outcomes in sets:
        for outcome in outcomes:
            source = outcome.task.partition("/")[0]
            shares = outcome.shares() * outcome.right / (len(sets) * len(outcomes))
            for key, label, share in zip(outcome.keys, outcome.labels, shares, strict=True):
                parts[source][key] += share
                used[source][key] += f", {outcome.task}: {label}"
    groups = np.repeat(np.arange(len(parts)), [len(part) for part in parts.values()])
    values = np.concatenate([len(parts) * len(value) * np.array(list(value.values())) for value in parts.values()])
    names = [f"{source}/{key}{tasks}" for source, item in used.items() for key, tasks in item.items()]
    return ItemScores.of(name, values, names, groups=groups)


def average_row(name: str, sets: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """Return an average as the results of the experiments hold it."""
    metric = measure(average(name, sets))
    return {"name": name, "value": metric.value, "n": metric.n, "interval": metric.interval}


def difference_row(name: str, ours: Sequence[Sequence[Outcome]], theirs: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """Return `average` of ours less that of theirs; DataError unless both are of the same tasks and images."""
    one = average(name, ours)
    gap = estimate_difference(one, average(name, theirs))
    return {"name": name, "value": gap.value, "n": one.items, "interval": gap.interval()}


class HeldOut:
    """The images that models are compared on: the sets `PHOTOS`, each of `CHANGES`, and `DRAWINGS`.

    All models must be evaluated on the same images, so one that cannot be decoded is a DataError.
    """

    def __init__(self, photos: Path, drawings: Path | None = None) -> None:
        """`photos`: labelled, without the classes that are never trained on; `drawings`: of `synthetic.drawings`."""
        tasks = {name: task for name, task in load_suite(photos).items() if not name.endswith("/unseen")}
        changed = {name: _every(task) for name, task in tasks.items()}
        self.sets = {PHOTOS: tasks, **dict.fromkeys(CHANGES, changed)}
        if drawings is not None:
            self.sets[DRAWINGS] = load_labelled(drawings, "unseen")

    def evaluate(self, encoder: Encoder, track: Track = untracked) -> Outcomes:
        """Return a model's outcomes."""
        outcomes = {}
        for name, tasks in self.sets.items():
            prompts = "name" if name == DRAWINGS else "photo"
            classes = tasks if name == DRAWINGS else self.sets[PHOTOS]
            plain = Embeddings(encoder)
            source = ChangedEmbeddings(encoder, CHANGES[name]) if name in CHANGES else plain
            outcomes[name] = [
                _classify(source, task, ZeroShotClassifier.of(plain, classes[item].classes, prompts), track)
                for item, task in tasks.items()
            ]
        return outcomes

    def pack(self, outcomes: Outcomes) -> dict[str, dict[str, str]]:
        """Return outcomes as text by set and task: the number of images, and a hexadecimal digit for four of them."""
        return {
            name: {task.task: f"{len(task.right)} {np.packbits(task.right).tobytes().hex()}" for task in tasks}
            for name, tasks in outcomes.items()
        }

    def unpack(self, packed: Mapping[str, Mapping[str, str]]) -> Outcomes:
        """Return what was packed; DataError if it is of other images."""
        if {name: list(tasks) for name, tasks in packed.items()} != {n: list(tasks) for n, tasks in self.sets.items()}:
            raise DataError("the result is of other sets of images; write to another file, or give the same data")
        return {
            name: [_outcome(self.sets[name][task], text) for task, text in tasks.items()]
            for name, tasks in packed.items()
        }


def _outcome(task: LabelledImages, text: str) -> Outcome:
    count, _, digits = text.partition(" ")
    if count != str(len(task.keys)):
        raise DataError(f"the result is of {count} images of {task.name}, not {len(task.keys)}; write to another file")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=len(task.keys))
    return Outcome(task.name, task.keys, task.labels, bits.astype(bool))


def _every(task: LabelledImages) -> LabelledImages:
    return task.select(range(0, len(task.keys), EVERY))


def _classify(source: Embeddings, task: LabelledImages, classifier: ZeroShotClassifier, track: Track) -> Outcome:
    features = source.images(task, track)
    if features.failures:
        raise DataError(f"{task.name}: {len(features.failures)} images cannot be decoded; {features.failures[0]}")
    right = classifier.rank(features.vectors, 1)[:, 0] == features.targets(classifier.classes)
    return Outcome(task.name, features.keys, features.labels, right)
