"""The page on encoding speed is the one its JSON makes."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.encode import page


def test_the_page_is_made_of_its_json(root: Path) -> None:
    results = root / "docs" / "results" / "encode.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == page(result)
