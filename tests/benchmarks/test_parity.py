"""The parity table is complete and within what is promised."""

from __future__ import annotations

import json

from benchmarks.parity import RESULTS, Row, row
from perception_encoder.models.registry import MODELS


def test_every_architecture_is_measured_and_agrees() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    published = {name for name, entry in MODELS.items() if entry.builtin is None}
    architectures = {name for name in published if not name.endswith("-Tiling")}
    for oracle, names in {
        "reference": architectures,
        "timm": architectures,
        "open_clip": {name for name in architectures if MODELS[name].text},
    }.items():
        assert {entry["model"] for entry in rows if entry["oracle"] == oracle} == names
    assert all(entry["values"] < 1e-4 for entry in rows)
    assert all(entry["gradients"] < 1e-4 for entry in rows if entry["gradients"] is not None)


def test_a_row_keeps_the_largest() -> None:
    errors = {"image": 1e-7, "image gradients": 3e-6, "text": 2e-7, "text gradients": 1e-6}
    assert row("m", "o", errors) == Row("m", "o", 2, 2e-7, 3e-6)
    assert row("m", "o", {"tokens": 1e-7}).gradients is None
