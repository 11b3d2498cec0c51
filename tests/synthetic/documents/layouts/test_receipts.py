"""Receipts: sums that add up, and answers recomputed from the printed values."""

from __future__ import annotations

import re

import pytest

from synthetic.documents.layouts.receipts import COUNTED

SPLITS = ("train", "test")


def cents(text: str) -> int:
    return round(float(text.lstrip("$€£")) * 100)


@pytest.mark.parametrize("split", SPLITS)
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


@pytest.mark.parametrize("split", SPLITS)
def test_answers_are_those_of_the_values(draw_many, split: str) -> None:
    seen = set()
    for drawn in draw_many("receipt", split):
        items = {item["name"]: item for item in drawn.content["items"]}
        by_price = sorted(items, key=lambda name: cents(items[name]["price"]))
        for question, answer, box, task in drawn.questions:
            seen.add(task)
            (name, *_) = sorted((entry for entry in items if re.search(rf"\b{entry}\b", question)), key=len)[::-1] or [
                None
            ]
            expected = {
                "count": str(len(items)),
                "price": items[name]["price"] if name else None,
                "quantity": str(items[name].get("quantity")) if name else None,
                "yes_no": "yes" if name else "no",
                "compare": by_price[-1] if "most" in question else by_price[0],
            }
            assert answer == (expected[task] if task in expected else drawn.content[task]), question
            assert (box is None) == (task in ("count", "yes_no"))
    tasks = {"total", "subtotal", "tax", "date", "shop", "price", "quantity", "count", "compare", "yes_no"}
    assert seen == tasks
