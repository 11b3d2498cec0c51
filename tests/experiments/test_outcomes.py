"""Every set is measured on its own pictures, and what was right survives being packed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from experiments.outcomes import DRAWINGS, PHOTOS, HeldOut
from experiments.robustness import CHANGES
from perception_encoder.errors import DataError
from tests.evaluation.colours import ColourEncoder, write_colours

LABELS = ["red cup", "red pot", "green pea", "blue jay", "red cup", "green pea"]


@pytest.fixture
def held_out(tmp_path: Path) -> HeldOut:
    write_colours(tmp_path / "photos" / "test" / "shop.tar", "shop", LABELS, coarse=True)
    write_colours(tmp_path / "photos" / "test" / "toys.tar", "toys", ["red", "blue"])
    write_colours(tmp_path / "drawings" / "unseen.tar", "openmoji", ["red hat", "blue hat"])
    return HeldOut(tmp_path / "photos", tmp_path / "drawings")


def test_every_set_and_task(held_out: HeldOut) -> None:
    outcomes = held_out.measure(ColourEncoder())
    assert list(outcomes) == [PHOTOS, *CHANGES, DRAWINGS]
    photos = {outcome.task: outcome.right.tolist() for outcome in outcomes[PHOTOS]}
    assert photos == {"shop": [True, False, True, True, True, True], "shop/coarse": [True] * 6, "toys": [True, True]}
    assert [outcome.keys for outcome in outcomes["grey"]] == [("shop-0", "shop-3")] * 2 + [("toys-0",)]
    grey = [outcome.right.all() for outcome in outcomes["grey"]]
    assert not all(grey)  # an encoder of colours cannot know them without
    occluded = outcomes["occluded"][0]
    assert occluded.right.tolist() == [True, True]  # and does not need all of the picture
    (drawings,) = outcomes[DRAWINGS]
    assert drawings.right.tolist() == [True, True]


def test_outcomes_come_back_from_text(held_out: HeldOut) -> None:
    outcomes = held_out.measure(ColourEncoder())
    again = held_out.unpack(held_out.pack(outcomes))
    for name, found in outcomes.items():
        for before, after in zip(found, again[name], strict=True):
            assert (before.task, before.keys, before.labels) == (after.task, after.keys, after.labels)
            assert np.array_equal(before.right, after.right)


def test_outcomes_of_other_pictures_are_refused(held_out: HeldOut) -> None:
    packed = held_out.pack(held_out.measure(ColourEncoder()))
    with pytest.raises(DataError, match="other sets of pictures"):
        held_out.unpack({name: tasks for name, tasks in packed.items() if name != DRAWINGS})
    packed[PHOTOS]["shop"] = packed[PHOTOS]["shop"].replace("6 ", "5 ")
    with pytest.raises(DataError, match="5 pictures of shop, not 6"):
        held_out.unpack(packed)


def test_a_picture_that_cannot_be_decoded_is_an_error(tmp_path: Path) -> None:
    write_colours(tmp_path / "test.tar", "shop", LABELS, broken=(3,))
    with pytest.raises(DataError, match="shop: 1 pictures cannot be decoded; shop-3"):
        HeldOut(tmp_path).measure(ColourEncoder())
