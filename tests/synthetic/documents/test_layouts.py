"""Answers and labels agree with what is drawn: the bars of charts, the ticks of forms, the sums of receipts."""

from __future__ import annotations

import re

import numpy as np
import pytest

from synthetic.documents.layouts.bars import LAYOUTS
from synthetic.documents.layouts.charts import COLOURS
from synthetic.documents.layouts.receipts import COUNTED

KINDS = ("bar chart", "line chart")


def answer_to(question: str, task: str, content: dict) -> str | None:
    """The answer by looking it up in the series; None for questions that only one kind has."""
    series, categories = content["series"], content["categories"]
    name = next((curve for curve in series if len(series) > 1 and f" of {curve}" in question), next(iter(series)))
    values = dict(zip(categories, series[name], strict=True))
    if task == "value":
        return str(values[re.search(r"(?:in|of) ([^ ]+(?: [^ ]+)?)\?", question.replace(f" of {name}", ""))[1]])
    if task == "compare":
        return (max if "highest" in question else min)(values, key=values.get)
    if task == "difference":
        return str(max(values.values()) - min(values.values()))
    if match := re.search(r"larger in (.+) than in (.+)\?", question):
        return "yes" if values[match[1]] > values[match[2]] else "no"
    if match := re.search(r"rise from (.+) to (.+)\?", question):
        return "yes" if values[match[1]] < values[match[2]] else "no"
    if match := re.search(r"What colour is (.+)\?", question):
        return content["colours"][match[1]]
    if match := re.search(r"What does (.+) stand for\?", question):
        return {colour: item for item, colour in content["colours"].items()}[match[1]]
    return {"title": content["title"], "axis": content["unit"]}.get(task)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_series(draw_many, kind: str, split: str) -> None:
    seen = set()
    for drawn in draw_many(kind, split):
        assert set(drawn.content["colours"].values()) <= set(COLOURS)
        printed = " ".join(word.text for word in drawn.words)
        assert all(text in printed for text in (drawn.content["title"], *drawn.content["categories"]))
        for question, answer, box, task in drawn.questions:
            if (expected := answer_to(question, task, drawn.content)) is not None:
                assert answer == expected, question
                seen.add(task)
            if task in ("title", "axis", "compare", "legend"):
                assert box is not None
    several = {"colour", "legend"} if split == "train" else set()
    assert seen == {"title", "axis", "value", "compare", "difference", "yes_no", *several}


SPLITS = ("train", "test")


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


def cents(text: str) -> int:
    return round(float(text.lstrip("$€£")) * 100)


@pytest.mark.parametrize("split", ["train", "test"])
def test_sums_add_up(draw_many, split: str) -> None:
    taxed = 0
    for drawn in draw_many("receipt", split):
        content = drawn.content
        items = sum(cents(item["price"]) for item in content["items"])
        if "tax" in content:
            taxed += 1
            assert cents(content["subtotal"]) == items
            items += cents(content["tax"])
        assert cents(content["total"]) == items
        printed = " ".join(word.text for word in drawn.words)
        for text in (
            content["shop"],
            content["date"],
            content["total"],
            *(entry["name"] for entry in content["items"]),
        ):
            assert text in printed
        assert all(("quantity" in item) == (drawn.layout in COUNTED) for item in content["items"])
    assert 0 < taxed < len(draw_many("receipt", split))
