"""Zero-shot classification: the class whose prompt ensemble is nearest (section 2.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from perception_encoder.datasets.labelled import LabelledPictures
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.classification.prompts import ensemble, find_templates, prompted_name
from perception_encoder.evaluation.features import FRAMES, Features, encode_pictures
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import ItemScores, measure
from perception_encoder.models.protocols import ImageTextEncoder
from perception_encoder.progress import Track, untracked

TOP = 5
FEW = 10
"""Items of a class. Drawn within a class of n items, a mean varies by 1 - 1/n of what it should: not at all for one."""


def classify(vectors: np.ndarray, class_vectors: np.ndarray) -> np.ndarray:
    """The place of the nearest class for each picture: (n, D) and (K, D) unit vectors to (n,)."""
    return (vectors @ class_vectors.T).argmax(axis=1)


def nearest(scores: np.ndarray, top: int) -> np.ndarray:
    """The places of the `top` highest scores of each row, highest first: (n, K) to (n, top)."""
    some = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def accuracies(
    predicted: np.ndarray,
    features: Features,
    classes: Sequence[str],
    accepted: Mapping[str, frozenset[str]] | None = None,
) -> tuple[ItemScores, ...]:
    """Mean class accuracy and top-1 of predicted places in `classes`, (n,), or best first (n, top): then top-5, too.

    `accepted`: the classes that are right for a label, where those are not just the label itself.

    In the interval of the mean class accuracy items are drawn anew within their class. If a class has fewer than `FEW`
    items, they are drawn across all classes instead, each with the weight that it has in the mean: an interval that can
    only be too wide, where the other would be too narrow, or of no width at all.
    """
    ranked = predicted if predicted.ndim == 2 else predicted[:, None]  # (n, top)
    hits = _hits(ranked, features, classes, accepted or {})
    names = [f"{key}: {label}" for key, label in zip(features.keys, features.labels, strict=True)]
    _, groups, sizes = np.unique(features.labels, return_inverse=True, return_counts=True)
    grouped, weights = (groups, None) if sizes.min(initial=FEW) >= FEW else (None, 1 / sizes[groups])
    found = [
        ItemScores.of("mean class accuracy", hits[:, 0], names, groups=grouped, weights=weights),
        ItemScores.of("top-1", hits[:, 0], names),
    ]
    if ranked.shape[1] >= TOP:
        found.append(ItemScores.of(f"top-{TOP}", np.any(hits[:, :TOP], axis=1), names))
    return tuple(found)


def _hits(
    ranked: np.ndarray, features: Features, classes: Sequence[str], accepted: Mapping[str, frozenset[str]]
) -> np.ndarray:
    """Whether each predicted class is right, bool (n, top)."""
    if not accepted:
        return np.equal(ranked, features.targets(classes)[:, None])
    labels = sorted(set(features.labels))
    table = np.array([[each in accepted[label] for each in classes] for label in labels])  # (labels, K)
    rows = np.array([labels.index(label) for label in features.labels])
    return table[rows[:, None], ranked]


def check_classes(task: str, classes: Sequence[str]) -> None:
    """Raise `DataError` for a task in which there is nothing to tell apart."""
    if len(classes) < 2:
        raise DataError(f"{task} has only the class {classes[0]!r}; a classification task needs at least two")


def classify_zero_shot(
    encoders: Mapping[str, ImageTextEncoder],
    task: LabelledPictures,
    prompts: Sequence[str],
    track: Track = untracked,
    frames: int = FRAMES,
) -> tuple[list[Measurement], tuple[InputError, ...]]:
    """Measure a task with each of the prompts and under each transform; and what cannot be decoded.

    `encoders`: the model by its transforms' names; `prompts`: names of templates (see `PROMPTS`). Raises DataError for
    a single class, ModelError where a vector is not finite.
    """
    check_classes(task.name, task.classes)
    templates = {name: find_templates(name) for name in prompts}
    encoder = next(iter(encoders.values()))
    named = [task.names.get(label, label) for label in task.classes]
    vectors = {
        name: ensemble(encoder, [prompted_name(each, name) for each in named], sentences, track)
        for name, sentences in templates.items()
    }
    measurements: list[Measurement] = []
    failures: tuple[InputError, ...] = ()
    for transform, shown in encoders.items():
        features = encode_pictures(shown, task, track, frames)
        failures = features.failures
        for name, class_vectors in vectors.items():
            ranked = nearest(features.vectors @ class_vectors.T, TOP if len(named) > TOP else 1)
            scores = accuracies(ranked, features, task.classes, task.accepted)
            metrics = tuple(map(measure, scores))
            found = Measurement(task.name, "zero-shot", transform, name, len(named), metrics, scores=scores)
            measurements.append(found)
    return measurements, failures
