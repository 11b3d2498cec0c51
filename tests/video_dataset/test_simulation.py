"""The simulated annotator removes, corrects and adds; what it leaves agrees with the scene's truth."""

from __future__ import annotations

import numpy as np
import pytest

from perception_encoder.video_dataset.simulation import ORBIT, SceneTruth, SimulatedAnnotator, simulate_caption

CLASSES = ("lamp", "crate", "ball", "soccer ball", "orange crate", "dog")
TRUTH = SceneTruth(
    {"lamp": frozenset({"red"}), "crate": frozenset({"blue"}), "ball": frozenset({"green", "white"})},
    (("lamp", "tips over"), ("crate", "is pushed")),
    False,
)
TRUE = "A red lamp tips over. A blue crate is pushed across the floor."
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
    result = ANNOTATOR.refine(caption, TRUTH)
    expected = refined or TRUE.replace(" A blue", " The blue")
    assert (result.caption, (result.removed, result.corrected, result.added)) == (expected, changes)


def test_a_moving_camera_is_added_once() -> None:
    truth = SceneTruth(TRUTH.colours, TRUTH.events, True)
    assert ANNOTATOR.refine(TRUE, truth).caption == f"{TRUE} {ORBIT}"
    told = f"{TRUE} The camera moves."
    assert ANNOTATOR.refine(told, truth).caption == told


def test_captions_with_mistakes_are_repaired() -> None:
    """Whatever the captioner does, no absent class stays, every event is told, and a second pass changes nothing."""
    mistakes = 0
    for seed in range(200):
        caption = simulate_caption(TRUTH, CLASSES, np.random.default_rng(seed))
        refined = ANNOTATOR.refine(caption, TRUTH)
        mistakes += refined.caption != caption
        assert "dog" not in refined.caption and "soccer" not in refined.caption and "orange" not in refined.caption
        assert "lamp tips over" in refined.caption and "crate is pushed across the floor" in refined.caption
        again = ANNOTATOR.refine(refined.caption, TRUTH)
        assert again.caption == refined.caption and again.removed == again.corrected == again.added == 0
    assert 120 < mistakes < 195


def test_the_same_seed_makes_the_same_mistakes() -> None:
    captions = [simulate_caption(TRUTH, CLASSES, np.random.default_rng(seed)) for seed in (3, 3, 4, 5, 6)]
    assert captions[0] == captions[1] and len(set(captions)) > 2


def test_the_truth_of_a_rendered_video() -> None:
    metadata = {
        "objects": [
            {"id": 1, "kind": "lamp", "colour": "red"},
            {"id": 2, "kind": "lamp", "colour": ""},
            {"id": 3, "kind": "crate", "colour": ""},
        ],
        "events": [
            {"action": "tips over", "object": 2, "start": 0, "end": 1},
            {"action": "orbits", "object": None, "start": 0, "end": 2},
        ],
    }
    truth = SceneTruth.of(metadata)
    assert truth == SceneTruth({"lamp": frozenset({"red"}), "crate": frozenset()}, (("lamp", "tips over"),), True)
    assert (truth.phrase("lamp"), truth.phrase("crate")) == ("red lamp", "crate")
