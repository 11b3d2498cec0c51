"""Every set is evaluated on its own images, and outcomes survive being packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.outcomes import DRAWINGS, PHOTOS, HeldOut, Outcome, average_row, difference_row
from experiments.robustness import CHANGES
from tests.evaluation.colours import ColourEncoder, write_colours

LABELS = ["red cup", "red pot", "green pea", "blue jay", "red cup", "green pea"]


@pytest.fixture
def held_out(tmp_path: Path) -> HeldOut:
    write_colours(tmp_path / "photos" / "test" / "shop.tar", "shop", LABELS, coarse=True)
    write_colours(tmp_path / "photos" / "test" / "toys.tar", "toys", ["red", "blue"])
    write_colours(tmp_path / "drawings" / "unseen.tar", "openmoji", ["red hat", "blue hat"])
    return HeldOut(tmp_path / "photos", tmp_path / "drawings")


def test_every_set_and_task(held_out: HeldOut) -> None:
    outcomes = held_out.evaluate(ColourEncoder())
    assert list(outcomes) == [PHOTOS, *CHANGES, DRAWINGS]
    photos = {outcome.task: outcome.right.tolist() for outcome in outcomes[PHOTOS]}
    assert photos == {"shop": [True, False, True, True, True, True], "shop/coarse": [True] * 6, "toys": [True, True]}
    assert [outcome.keys for outcome in outcomes["grey"]] == [("shop-0", "shop-3")] * 2 + [("toys-0",)]
    grey = [outcome.right.all() for outcome in outcomes["grey"]]
    assert not all(grey)  # an encoder of colours cannot know them without
    occluded = outcomes["occluded"][0]
    assert occluded.right.tolist() == [True, True]  # and does not need all of the image
    (drawings,) = outcomes[DRAWINGS]
    assert drawings.right.tolist() == [True, True]


def outcome(task: str, labels: str, right: str) -> Outcome:
    keys = tuple(str(number) for number in range(len(labels)))
    return Outcome(task, keys, tuple(labels), np.array([letter == "1" for letter in right]))


def test_the_average_is_over_classes_then_tasks_then_sets() -> None:
    fine = outcome("food", "aaab", "1100")  # a 2/3, b 0
    coarse = outcome("food/coarse", "xxyy", "1111")
    other = outcome("cars", "pq", "10")
    row = average_row("score", [[fine, coarse], [other]])
    assert row["value"] == pytest.approx(((1 / 3 + 1) / 2 + 1 / 2) / 2)
    assert row["n"] == 6  # images of food and of cars, each once


def test_images_of_two_tasks_are_resampled_together() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.5
    keys = tuple(map(str, range(400)))
    one = Outcome("food", keys, ("a",) * 400, right)
    same = Outcome("food/coarse", keys, ("b",) * 400, right)  # of the same images: it adds nothing new
    differing = Outcome("cars", keys, ("b",) * 400, right)
    width = {
        name: np.diff(average_row("s", [[one, two]])["interval"])[0]
        for name, two in (("same", same), ("apart", differing))
    }
    assert width["same"] == pytest.approx(2 * 1.96 * 0.5 / 20, rel=0.1)
    assert width["apart"] == pytest.approx(width["same"] / 2**0.5, rel=0.1)


def test_a_difference_is_paired() -> None:
    rng = np.random.default_rng(0)
    right = rng.random(1000) < 0.5
    better = right.copy()
    better[np.flatnonzero(~right)[:30]] = True
    keys, labels = tuple(map(str, range(1000))), ("a",) * 1000
    ours, theirs = (Outcome("t", keys, labels, some) for some in (better, right))
    row = difference_row("gain", [[ours]], [[theirs]])
    assert row["value"] == pytest.approx(0.03)
    assert row["interval"][0] > 0.015  # unpaired, the interval would be 0.03 +- 0.044
    assert row["interval"][1] < 0.045
