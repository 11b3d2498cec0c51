"""Forms: the values of their fields, empty ones, and ticks that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

SPLITS = ("train", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_those_of_the_fields(draw_many, split: str) -> None:
    seen, empty = set(), 0
    for drawn in draw_many("form", split):
        fields, ticks = drawn.content["fields"], drawn.content["ticks"]
        empty += sum(not value for value in fields.values())
        for question, answer, box, task in drawn.questions:
            words = question.rstrip("?").lower()
            if task == "field":
                (label,) = (item for item in fields if words.endswith((f"the {item.lower()}", f"under {item.lower()}")))
                assert answer == fields[label] and box is not None
            elif task == "count":
                assert answer == str(len(fields))
            elif task == "title":
                assert answer == drawn.content["title"]
            else:
                field = [
                    bool(value) for label, value in fields.items() if words == f"is the field {label.lower()} filled in"
                ]
                tick = [ticked for name, ticked in ticks.items() if words == f"is the box {name.lower()} ticked"]
                assert [answer] == ["yes" if state else "no" for state in field + tick]
            seen.add(task)
        asked = [item.answer for item in drawn.questions if item.task == "field"]
        assert sorted(asked) == sorted(value for value in fields.values() if value)
    assert seen == {"title", "field", "count", "yes_no"} and empty


def test_a_ticked_box_has_a_cross(draw_many) -> None:
    """The square left of the label is darker in its middle if it is ticked."""
    states = set()
    for drawn in draw_many("form"):
        for name, ticked in drawn.content["ticks"].items():
            (left, top, _, bottom) = next(word.box for word in reversed(drawn.words) if word.text == name)
            pixels = np.asarray(drawn.image.convert("L"), dtype=int)
            height = bottom - top
            middle = pixels[top : bottom + 1, max(0, left - 2 * height) : left - 1]
            paper = np.median(pixels)
            columns = (middle < paper - 40).mean(0)
            inner = np.flatnonzero(columns > 0.6)  # the sides of the square
            assert len(inner) >= 2
            crossed = (middle[2 : height // 2, inner[0] + 3 : inner[-1] - 2] < paper - 40).any()
            assert crossed == ticked
            states.add(ticked)
    assert states == {True, False}
