"""The nearest class wins, and a task needs two."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification import accuracies, check_classes, classify
from perception_encoder.evaluation.features import Features
from perception_encoder.evaluation.scores import measure
from tests.evaluation.colours import unit


def test_the_nearest_class_wins() -> None:
    classes = np.eye(3, dtype=np.float32)
    vectors = unit(np.array([(3, 1, 1), (0, 1, 2), (-5, -1, -9)], dtype=np.float32))
    assert classify(vectors, classes).tolist() == [0, 2, 1]


def test_accuracies_count_by_class_and_by_item() -> None:
    features = Features(np.zeros((4, 2), dtype=np.float32), tuple("wxyz"), ("a", "a", "a", "c"))
    by_class, top1 = map(measure, accuracies(np.array([0, 0, 1, 1]), features, ("a", "b", "c")))
    assert (by_class.value, by_class.n) == (pytest.approx((2 / 3 + 0) / 2), 4)
    assert (top1.name, top1.value) == ("top-1", 0.5)


def test_one_class_is_no_task() -> None:
    check_classes("clothing", ("hat", "shoes"))
    with pytest.raises(DataError, match="clothing has only the class 'hat'"):
        check_classes("clothing", ("hat",))
