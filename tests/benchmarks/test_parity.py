"""The parity table is complete and within what is promised."""

from __future__ import annotations

import json

from benchmarks.parity import RESULTS
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
