"""Objects and actions that captions mention."""

from __future__ import annotations

import pytest

from synthetic.video_dataset.mentions import MentionReader, find_actions, split_sentences

READER = MentionReader(("ball", "soccer ball", "pair of pliers", "woman"))


def test_objects_with_number_and_colour() -> None:
    sentence = "Two red soccer balls, an orange ball and the pair of pliers near women."
    found = [(each.name, each.colour, each.number) for each in READER.find(sentence)]
    expected = [("soccer ball", "red", 2), ("ball", "orange", 1), ("pair of pliers", "", None), ("woman", "", None)]
    assert found == expected
    assert [sentence[each.start : each.end] for each in READER.find(sentence)] == [
        "Two red soccer balls",
        "an orange ball",
        "the pair of pliers",
        "women",
    ]


def test_a_part_of_a_word_is_no_object() -> None:
    assert READER.find("A football and a ballot.") == []


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


def test_sentences() -> None:
    assert split_sentences(" A ball rolls.. Is it red? yes ") == ["A ball rolls.", "Is it red?", "yes"]
