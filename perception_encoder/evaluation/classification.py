"""Zero-shot classification: the class whose prompt ensemble is nearest (section 2.5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_encoder.errors import DataError
from perception_encoder.evaluation.features import Features
from perception_encoder.evaluation.metrics import mean_class_accuracy, share
from perception_encoder.evaluation.protocol import Metric


def classify(vectors: np.ndarray, class_vectors: np.ndarray) -> np.ndarray:
    """The place of the nearest class for each picture: (n, D) and (K, D) unit vectors to (n,)."""
    return (vectors @ class_vectors.T).argmax(axis=1)


def accuracies(
    predicted: np.ndarray, features: Features, classes: Sequence[str], generator: np.random.Generator
) -> tuple[Metric, Metric]:
    """Mean class accuracy and top-1 of predicted places in `classes`, (n,)."""
    targets = features.targets(classes)
    correct = predicted == targets
    return mean_class_accuracy(correct, targets, generator), share("top-1", correct, generator)


def check_classes(task: str, classes: Sequence[str]) -> None:
    """Raise `DataError` for a task in which there is nothing to tell apart."""
    if len(classes) < 2:
        raise DataError(f"{task} has only the class {classes[0]!r}; a classification task needs at least two")
