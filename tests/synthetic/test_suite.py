"""The suite measures every task of a directory and labels what it measured."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest

from synthetic.suite import Suite
from tests.evaluation.colours import ColourEncoder, write_colours

LABELS = ["red cup", "red pot", "green pea", "blue jay", "red cup", "green pea"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two sources in train, val and test; `shop` has coarse labels, and one of its test images is broken."""
    directory = tmp_path / "photos"
    for split, broken in (("train", ()), ("val", ()), ("test", (3,))):
        write_colours(directory / split / "shop.tar", "shop", LABELS, coarse=True, broken=broken)
        write_colours(directory / split / "toys.tar", "toys", ["red", "blue"])
    return directory


def encoders() -> dict[str, ColourEncoder]:
    return {"squash": ColourEncoder(), "crop": ColourEncoder()}


def test_every_task_is_measured_and_labelled(photos: Path) -> None:
    suite = Suite(encoders())
    suite.classify(photos)
    result = suite.result("test", {"weights": "none"})
    assert list(dict.fromkeys((*score.key, score.classes) for score in result.scores)) == [
        (task, method, transform, prompts, classes)
        for task, classes in (("shop", 4), ("shop/coarse", 3), ("toys", 2))
        for method, transform, prompts in (
            ("zero-shot", "squash", "photo"),
            ("zero-shot", "crop", "photo"),
            ("zero-shot", "squash", "imagenet"),
            ("zero-shot", "crop", "imagenet"),
            ("linear probe", "squash", ""),
        )
    ]
    groups = groupby(result.scores, lambda score: score.key)
    values = {key[:2]: [round(score.value, 4) for score in scores] for key, scores in groups}
    # Its colour cannot tell a red pot from a red cup, and the only blue jay is broken.
    assert values["shop", "zero-shot"] == [round(2 / 3, 4), 0.8]
    assert values["shop/coarse", "zero-shot"] == values["toys", "zero-shot"] == [1.0, 1.0]
    assert (result.model, result.split, result.about) == ("colours", "test", {"weights": "none"})


def test_a_broken_image_is_in_no_result_and_reported_once(photos: Path) -> None:
    suite = Suite(encoders())
    suite.classify(photos)
    by_task = {score.task: score.n for score in suite.scores}
    assert by_task == {"shop": 5, "shop/coarse": 5, "toys": 2}
    (failure,) = suite.result("test", {}).failures
    assert failure.startswith("shop-3: ")
    assert suite.first["squash"].count == (6 + 2) * 3
