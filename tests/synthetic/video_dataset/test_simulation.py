"""The simulated annotator removes, corrects and adds; what it leaves agrees with the scene's truth."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.video_dataset.simulation import ORBIT, SimulatedAnnotator, simulate_caption
from synthetic.video_dataset.truth import MentionReader, SceneTruth, find_actions

CLASSES = ("lamp", "crate", "ball", "soccer ball", "orange crate", "dog")
TRUTH = SceneTruth(
    (("lamp", "red"), ("crate", "blue"), ("ball", "green"), ("ball", "white")),
    (("lamp", "tips over"), ("crate", "is pushed")),
    False,
)
BALLS = "There are also two balls."
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


@pytest.mark.parametrize(
    ("caption", "refined", "changes"),
    [
        ("a photo of two lamps and a white dog on a floor", "A photo of a red lamp on a floor.", (0, 2, 3)),
        ("The three balls and a crate", "The two balls and a crate.", (0, 1, 2)),
        ("Two dogs near dogs.", "", (1, 0, 3)),
        ("Orange crates and Green crate.", "Blue crates and blue crate.", (0, 2, 3)),
    ],
)
def test_lists_of_objects(caption: str, refined: str, changes: tuple[int, int, int]) -> None:
    """Phrases are removed and corrected one by one, with their number."""
    result = ANNOTATOR.refine(caption, TRUTH)
    assert result.caption.startswith(refined)
    assert (result.removed, result.corrected, result.added) == changes


def test_objects_that_are_not_mentioned_are_added() -> None:
    assert ANNOTATOR.refine(TRUE, TRUTH).caption == f"{TRUE} There are also two balls."
    assert ANNOTATOR.refine("", TRUTH).caption == f"{TRUE} There are also two balls."
    still = SceneTruth((("crate", "blue"), ("lamp", "")), (), False)
    assert ANNOTATOR.refine("A dog sleeps.", still).caption == "There is also a blue crate and a lamp."


def test_a_moving_camera_is_added_once() -> None:
    truth = SceneTruth(TRUTH.objects, TRUTH.events, True)
    assert ANNOTATOR.refine(TRUE, truth).caption == f"{TRUE} {ORBIT} There are also two balls."
    told = f"{TRUE} The camera moves around two balls."
    assert ANNOTATOR.refine(told, truth).caption == told


def test_captions_with_mistakes_are_repaired() -> None:
    """Whatever the captioner does, no absent class stays, every event is told, and a second pass changes nothing."""
    mistakes = 0
    for seed in range(200):
        caption = f"{BALLS} {simulate_caption(TRUTH, CLASSES, np.random.default_rng(seed))}"
        refined = ANNOTATOR.refine(caption, TRUTH)
        mistakes += refined.caption != caption
        assert "dog" not in refined.caption and "soccer" not in refined.caption and "orange" not in refined.caption
        assert "lamp tips over" in refined.caption and "crate is pushed across the floor" in refined.caption
        again = ANNOTATOR.refine(refined.caption, TRUTH)
        assert again.caption == refined.caption and again.removed == again.corrected == again.added == 0
    assert 120 < mistakes < 195


READER = MentionReader(("ball", "soccer ball", "pair of pliers", "woman"))


def test_objects_with_number_and_colour() -> None:
    sentence = "Two red soccer balls, an orange ball and the pair of pliers near women."
    found = [(item.name, item.colour, item.number) for item in READER.find(sentence)]
    expected = [("soccer ball", "red", 2), ("ball", "orange", 1), ("pair of pliers", "", None), ("woman", "", None)]
    assert found == expected
    assert [sentence[item.start : item.end] for item in READER.find(sentence)] == [
        "Two red soccer balls",
        "an orange ball",
        "the pair of pliers",
        "women",
    ]


@pytest.mark.parametrize(
    ("sentence", "actions"),
    [
        ("A ball rolls.", ["rolls"]),
        ("A lamp tipped over and fell.", ["tips over", "falls"]),
        ("Someone is pushing a crate, which falls from above.", ["is pushed", "falls"]),
        ("A roll of paper on a push button.", []),
    ],
)
def test_actions_in_the_order_of_the_sentence(sentence: str, actions: list[str]) -> None:
    assert find_actions(sentence) == actions
