"""Answers and labels agree with what is drawn: the bars of charts, the ticks of forms, the sums of receipts."""

from __future__ import annotations

import re

import pytest

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
