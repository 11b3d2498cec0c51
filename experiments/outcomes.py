"""Which test pictures a model gets right: the photographs as they are and changed, and drawings by their names.

Photographs are squashed and named zero-shot with the prompts `photo`; what is changed is every third of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.robustness import CHANGES, Changed
from perception_encoder.datasets.labelled import LabelledPictures, load_labelled
from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification.prompts import PROMPTS, ensemble
from perception_encoder.evaluation.classification.zero_shot import classify
from perception_encoder.evaluation.features import Features, encode_pictures, relabel
from perception_encoder.evaluation.statistics.paired import Outcome
from perception_encoder.models.protocols import ImageEncoder, ImageTextEncoder
from perception_encoder.progress import Track, untracked

PHOTOS, DRAWINGS = "photos", "drawings by name"
EVERY = 3  # of the changed photographs

Outcomes = dict[str, list[Outcome]]
"""By set, one for each of its tasks."""


class HeldOut:
    """The pictures that models are compared on: sets `PHOTOS`, each of `CHANGES`, and `DRAWINGS`.

    All models are to be measured on the same pictures, so one that cannot be decoded is a DataError.
    """

    def __init__(self, photos: Path, drawings: Path | None = None) -> None:
        """`photos`: labelled, their never-trained classes left out; `drawings`: what `pe data prepare` made."""
        tasks = {name: task for name, task in load_labelled(photos).items() if not name.endswith("/unseen")}
        changed = {name: _every(task) for name, task in tasks.items()}
        self.sets = {PHOTOS: tasks, **dict.fromkeys(CHANGES, changed)}
        if drawings is not None:
            self.sets[DRAWINGS] = load_labelled(drawings, "unseen")

    def measure(self, encoder: ImageTextEncoder, track: Track = untracked) -> Outcomes:
        """A model's outcomes."""
        outcomes = {}
        for name, tasks in self.sets.items():
            prompts = PROMPTS["name" if name == DRAWINGS else "photo"]
            classes = tasks if name == DRAWINGS else self.sets[PHOTOS]
            vectors = {task: ensemble(encoder, classes[task].classes, prompts) for task in tasks}
            shown = Changed(encoder, CHANGES[name]) if name in CHANGES else encoder
            outcomes[name] = _classify(shown, tasks, classes, vectors, track)
        return outcomes

    def pack(self, outcomes: Outcomes) -> dict[str, dict[str, str]]:
        """Outcomes as text by set and task: how many pictures, and a hexadecimal digit for four of them."""
        return {
            name: {o.task: f"{len(o.right)} {np.packbits(o.right).tobytes().hex()}" for o in found}
            for name, found in outcomes.items()
        }

    def unpack(self, packed: Mapping[str, Mapping[str, str]]) -> Outcomes:
        """What was packed; DataError where it was of other pictures."""
        if {name: list(tasks) for name, tasks in packed.items()} != {n: list(tasks) for n, tasks in self.sets.items()}:
            raise DataError("the result is of other sets of pictures; write to another file, or take the same folders")
        return {
            name: [_outcome(self.sets[name][task], text) for task, text in tasks.items()]
            for name, tasks in packed.items()
        }


def _outcome(task: LabelledPictures, text: str) -> Outcome:
    count, _, digits = text.partition(" ")
    if count != str(len(task.keys)):
        raise DataError(f"the result is of {count} pictures of {task.name}, not {len(task.keys)}; take another file")
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), dtype=np.uint8), count=len(task.keys))
    return Outcome(task.name, task.keys, task.labels, bits.astype(bool))


def _every(task: LabelledPictures) -> LabelledPictures:
    rows = slice(None, None, EVERY)
    return replace(task, keys=task.keys[rows], pictures=task.pictures[rows], labels=task.labels[rows])


def _classify(
    encoder: ImageEncoder,
    tasks: Mapping[str, LabelledPictures],
    classes: Mapping[str, LabelledPictures],
    vectors: Mapping[str, np.ndarray],
    track: Track,
) -> list[Outcome]:
    """Tasks over the same pictures share their features."""
    features: dict[tuple[str, ...], Features] = {}
    outcomes = []
    for name, task in tasks.items():
        if task.keys not in features:
            features[task.keys] = _encode(encoder, task, track)
        own = relabel(features[task.keys], task)
        right = classify(own.vectors, vectors[name]) == own.targets(classes[name].classes)
        outcomes.append(Outcome(name, own.keys, own.labels, right))
    return outcomes


def _encode(encoder: ImageEncoder, task: LabelledPictures, track: Track) -> Features:
    features = encode_pictures(encoder, task, track)
    if features.failures:
        raise DataError(f"{task.name}: {len(features.failures)} pictures cannot be decoded; {features.failures[0]}")
    return features
