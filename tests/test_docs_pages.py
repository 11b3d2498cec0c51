"""The pages that help to choose: families beside others, and the map from aims to commands."""

from __future__ import annotations

import re
from pathlib import Path

from perception_encoder.models.registry import MODELS

DOCS = Path(__file__).parent.parent / "docs"


def read_page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def words(text: str) -> int:
    """The words of a page; the bars and dashes of its tables are none."""
    return sum(bool(re.search(r"\w", word)) for word in text.split())


def table(text: str) -> list[list[str]]:
    """The rows of a page's last table, by cells."""
    lines = [line for line in text.rpartition("\n## ")[2].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_scores_of_pe_beside_other_families_are_those_of_the_registry() -> None:
    text = read_page("choose.md")
    rows = {row[0]: row[1:3] for row in table(text) if row[0].startswith("PE-Core")}
    assert rows == {
        name: [f"{MODELS[name].published['imagenet']}", rf"{MODELS[name].published['coco']} \*"]
        for name in MODELS
        if name in rows
    }
    assert len(rows) == 5
    assert words(text) <= 700
