"""The page on embedding a directory is the one its JSON makes, and within what is promised."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from benchmarks.embed import EMBED, ENCODE, page


def test_the_page_is_made_of_its_json(root: Path) -> None:
    results = root / "docs" / "results" / "embed.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == page(result)
    speeds = result["speeds"]["PE-Core-B16-224"]
    assert statistics.median(speeds[EMBED]) >= 0.85 * statistics.median(speeds[ENCODE])
