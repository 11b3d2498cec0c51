"""Intervals hold the truth of a simulated population as often as they say; benchmarks/intervals.py prints the table."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.intervals import MIOU, OTHERS, Setting
from perception_encoder.evaluation.statistics.scores import measure

SETTINGS = {setting.name: setting for setting in (*MIOU, *OTHERS)}


@pytest.mark.parametrize(
    ("name", "n"),
    [
        ("mIoU, 12 classes, each in 20 %", 20),
        ("mIoU, 10 classes, in 80 to 15 %", 20),
        ("mIoU, 20 classes, Zipf, in 95 to 6 %", 20),
        ("mIoU, the same, with stray predictions", 60),
        ("R@k, 90%", 25),
        ("R@k, 97%", 25),
        ("J&F", 10),
        ("mean class accuracy, 20 classes", 25),
    ],
)
def test_few_items_have_an_interval_that_holds_the_truth(name: str, n: int) -> None:
    held, _, _ = SETTINGS[name].coverage(n, 300)
    assert held >= 0.92


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_an_interval_holds_its_own_value_and_is_the_same_again(setting: Setting) -> None:
    for seed in range(20):
        scores = setting.draw(12, np.random.default_rng(seed))
        score = measure(scores)
        assert score.interval is not None and score.interval[0] <= score.value <= score.interval[1]
        assert score.interval == measure(scores).interval
