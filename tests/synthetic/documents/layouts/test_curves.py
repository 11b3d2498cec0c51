"""Line charts: points at the heights of their values."""

from __future__ import annotations

import numpy as np

from synthetic.documents.layouts.charts import COLOURS
from synthetic.documents.layouts.curves import LAYOUTS

SPLITS = ("train", "test")


def test_every_layout_occurs(draw_many) -> None:
    drawn = [{item.layout for item in draw_many("line chart", split)} for split in SPLITS]
    assert drawn == [set(layout) for layout in LAYOUTS]


def test_the_highest_point_is_above_its_category(draw_many) -> None:
    checked = 0
    for drawn in draw_many("line chart"):
        (name, values), *others = drawn.content["series"].items()
        colour = drawn.content["colours"][name]
        if others or colour == "black" or values.count(max(values)) > 1:
            continue
        mask = (np.asarray(drawn.image) == COLOURS[colour]).all(-1)
        top = np.flatnonzero(mask.any(1))[0]
        column = np.flatnonzero(mask[top]).mean()
        (question,) = (item for item in drawn.questions if item.task == "compare" and "highest" in item.question)
        left, _, right, _ = question.answer_box
        assert left - 2 <= column <= right + 2
        checked += 1
    assert checked > 5


def test_lines_are_counted(draw_many) -> None:
    counts = set()
    for drawn in draw_many("line chart"):
        (answer,) = (question.answer for question in drawn.questions if "How many lines" in question.question)
        assert answer == str(len(drawn.content["series"]))
        counts.add(answer)
    assert counts == {"1", "2", "3"}
