"""Line charts: points at the heights of their values."""

from __future__ import annotations

import numpy as np

from synthetic.documents.layouts.charts import COLOURS


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
