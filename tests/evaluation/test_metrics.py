"""Figures and their intervals."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.evaluation.metrics import mean_class_accuracy, share

TARGETS = np.repeat([0, 1, 4], [80, 15, 5])
CORRECT = np.concatenate([np.arange(80) < 60, np.arange(15) < 3, np.arange(5) < 5])


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def test_mean_class_accuracy_weighs_classes_alike() -> None:
    metric = mean_class_accuracy(CORRECT, TARGETS, generator())
    assert metric.name == "mean class accuracy"
    assert metric.n == 100
    assert metric.value == pytest.approx((60 / 80 + 3 / 15 + 1) / 3)


def test_share_weighs_items_alike() -> None:
    assert share("top-1", CORRECT, generator()).value == pytest.approx(0.68)


def test_intervals_are_those_of_resampling_the_items() -> None:
    draw = np.random.default_rng(1)
    resampled = []
    for _ in range(4000):
        groups = np.split(CORRECT, [80, 95])
        resampled.append(np.mean([draw.choice(group, len(group)).mean() for group in groups]))
    metric = mean_class_accuracy(CORRECT, TARGETS, generator())
    assert metric.ci == pytest.approx(np.percentile(resampled, [2.5, 97.5]), abs=0.01)
    low, high = share("top-1", CORRECT, generator()).ci
    assert (low, high) == pytest.approx((0.68 - 0.0914, 0.68 + 0.0914), abs=0.015)  # 1.96 sqrt(p (1 - p) / n)


def test_the_same_seed_gives_the_same_interval() -> None:
    first, second = (mean_class_accuracy(CORRECT, TARGETS, generator()) for _ in range(2))
    assert first == second
    assert first.ci != mean_class_accuracy(CORRECT, TARGETS, np.random.default_rng(1)).ci


def test_more_items_narrow_the_interval() -> None:
    few, many = (share("top-1", np.tile(CORRECT, times), generator()).ci for times in (1, 16))
    assert many[1] - many[0] == pytest.approx((few[1] - few[0]) / 4, rel=0.15)
