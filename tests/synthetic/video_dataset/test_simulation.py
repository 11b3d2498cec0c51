"""The simulated annotator removes, corrects and adds; what it leaves agrees with the scene's truth."""

from __future__ import annotations

import pytest

from synthetic.video_dataset.simulation import SimulatedAnnotator
from synthetic.video_dataset.truth import SceneTruth

CLASSES = ("lamp", "crate", "ball", "soccer ball", "orange crate", "dog")
TRUTH = SceneTruth(
    (("lamp", "red"), ("crate", "blue"), ("ball", "green"), ("ball", "white")),
    (("lamp", "tips over"), ("crate", "is pushed")),
    False,
)
TRUE = "A red lamp tips over. A blue crate is pushed across the floor."
BALLS = "There are two balls."
ANNOTATOR = SimulatedAnnotator(CLASSES)


@pytest.mark.parametrize(
    ("caption", "refined", "changes"),
    [
        (TRUE, TRUE, (0, 0, 0)),
        ("A red lamp tips over. A dog runs away. The blue crate is pushed across the floor.", None, (1, 0, 0)),
        ("A green lamp tips over. A blue crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A red lamp tips over. An orange crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A dog tips over. A blue crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A red lamp rolls. A blue crate is pushed across the floor.", TRUE, (0, 1, 0)),
        ("A red lamp tips over.", TRUE, (0, 0, 1)),
        ("", TRUE, (0, 0, 2)),
        ("A soccer ball rolls. A dog sleeps.", TRUE, (2, 0, 2)),
        ("An orange ball is there. " + TRUE, f"A ball is there. {TRUE}", (0, 1, 0)),
    ],
)
def test_what_is_done(caption: str, refined: str | None, changes: tuple[int, int, int]) -> None:
    result = ANNOTATOR.refine(f"{BALLS} {caption}", TRUTH)
    expected = refined or TRUE.replace(" A blue", " The blue")
    assert (result.caption, result.removed, result.corrected, result.added) == (f"{BALLS} {expected}", *changes)
