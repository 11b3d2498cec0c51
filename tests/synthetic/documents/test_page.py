"""A page's choices."""

from __future__ import annotations

import numpy as np
import pytest

from synthetic.documents.canvas import Canvas
from synthetic.documents.page import Page, bolder, title_case
from synthetic.documents.vocabulary import vocabulary


def page(split: str = "train", lines: int | None = None, room: float = 1.0) -> Page:
    return Page(Canvas(200, 100), np.random.default_rng(0), split, 10, lines, room, exact=False)


def test_lines_are_those_asked_for_else_fewer_with_each_try() -> None:
    assert {page(lines=7).count(3, 14) for _ in range(5)} == {7}
    first, late = page(), page(room=0.2)
    assert {first.count(3, 14) for _ in range(300)} == set(range(3, 15))
    assert {late.count(3, 14) for _ in range(100)} == {3, 4, 5}
    assert page(room=0).count(3, 14) == 3


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_choices_are_of_the_split(split: str) -> None:
    drawn = page(split)
    assert {drawn.layout((("a", "b"), ("c",))) for _ in range(30)} == ({"c"} if split == "test" else {"a", "b"})
    words = drawn.words("item", 9)
    assert len(set(words)) == 9 and set(words) <= set(vocabulary("item", split))
    style = drawn.style("hand", "mono")
    assert style.face.family.test == (split == "test") and drawn.families == [style.face.family.name]
    assert style.height == 10 and not style.face.bold


def test_yes_or_no_asks_either_question() -> None:
    drawn = page()
    asked = {drawn.yes_or_no(("a?", "b?"))[:2] for _ in range(30)}
    assert asked == {("a?", "yes"), ("b?", "no")}


def test_styles() -> None:
    style = page().style("sans")
    assert bolder(style, 1.5).face.bold and bolder(style, 1.5).height == 15
    assert title_case(style, "Exit") == "Exit"
    capitals = page("test").style("display")
    assert title_case(capitals, "Exit") == "EXIT"
