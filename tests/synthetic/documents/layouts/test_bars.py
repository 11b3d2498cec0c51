"""Bar charts: bars as high as their values, in their colours."""

from __future__ import annotations

import numpy as np

from synthetic.documents.layouts.bars import LAYOUTS
from synthetic.documents.layouts.charts import COLOURS

SPLITS = ("train", "test")


def test_every_layout_occurs(draw_many) -> None:
    drawn = [{each.layout for each in draw_many("bar chart", split)} for split in SPLITS]
    assert drawn == [set(each) for each in LAYOUTS]


def test_bars_are_as_long_as_their_values(draw_many) -> None:
    """Pixels of each colour from the axis to the tip of a bar, in relation to the series' sum."""
    checked: dict[str, int] = {}
    for split in SPLITS:
        for drawn in draw_many("bar chart", split):
            pixels = np.asarray(drawn.image)
            for name, values in drawn.content["series"].items():
                mask = (pixels == COLOURS[drawn.content["colours"][name]]).all(-1)
                for word in drawn.words:  # a square of the legend is left of its name
                    if word.text == name.split()[0] and len(drawn.content["series"]) > 1:
                        mask[: word.box[3] + 3] = False
                lengths = mask.sum(1 if drawn.layout == "horizontal" else 0)
                starts = np.flatnonzero(np.diff(np.concatenate([[0], (lengths > 0).astype(int)])) == 1)
                heights = np.array([lengths[start + 2] for start in starts])
                if len(heights) != len(values):
                    continue  # a bar of black hides behind the axis, or two touch
                unit = heights.sum() / sum(values)
                assert np.abs(heights - unit * np.array(values)).max() <= 3
                checked[drawn.layout] = checked.get(drawn.layout, 0) + 1
    assert checked.keys() == {name for layouts in LAYOUTS for name in layouts} and min(checked.values()) >= 5


def test_bars_are_counted(draw_many) -> None:
    for drawn in draw_many("bar chart"):
        bars = len(drawn.content["series"]) * len(drawn.content["categories"])
        (answer,) = (each.answer for each in drawn.questions if each.question == "How many bars are there?")
        assert answer == str(bars)
