"""Signs: their text, colour, speed and distances."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.documents.layouts.signs import GROUNDS

SPLITS = ("train", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_those_of_the_sign(draw_many, split: str) -> None:
    seen = set()
    for drawn in draw_many("sign", split):
        content = drawn.content
        goals = {name: int(distance) for name, distance in content.get("destinations", {}).items()}
        text = content.get("text", str(content.get("speed")))
        for question, answer, _, task in drawn.questions:
            asked = question.rstrip("?")
            if task == "distance":
                assert answer == f"{goals[asked.removeprefix('How far is it to ')]} km"
            elif task == "count":
                assert answer == str(len(goals) if "destinations" in question else len(text.split()))
            elif task == "colour":
                border = "red" if "speed" in content else content.get("band", content.get("colour"))
                assert answer == border
            elif question.startswith("Which destination"):
                assert goals[answer] == min(goals.values())
            elif question.startswith("Is the limit below"):
                assert answer == ("yes" if content["speed"] < int(asked.split()[-1]) else "no")
            elif task == "yes_no":
                said = asked.removeprefix("Does the sign say ").removeprefix("Is the speed limit ")
                name = said.removeprefix("Is ").removesuffix(" on the sign")
                assert answer == ("yes" if said == text or name in goals else "no"), question
            else:
                assert answer == (content["heading"] if "is the heading" in question else text)
            seen.add(task)
    expected = {"read", "colour", "count", "yes_no", *(("distance", "compare") if split == "train" else ())}
    assert seen == expected


def test_the_colour_is_the_largest_on_the_sign(draw_many) -> None:
    for drawn in draw_many("sign"):
        if drawn.layout in ("board", "road"):
            height, width = drawn.image.height, drawn.image.width
            inner = np.asarray(drawn.image)[int(height * 0.3) : int(height * 0.7), int(width * 0.1) : int(width * 0.9)]
            area = {name: (inner == colour).all(-1).sum() for name, colour in GROUNDS.items()}
            assert max(area, key=area.get) == drawn.content["colour"]
