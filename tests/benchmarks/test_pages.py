"""The pages of benchmarks are those that their JSON makes."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import calibration, dense, encode, engine, language, memory, oracles, scenes, server_memory, spatial
from benchmarks.search import contents as search
from benchmarks.train import contents as train


@pytest.mark.parametrize(
    ("name", "benchmark"),
    [
        ("calibration", calibration),
        ("dense_speed", dense),
        ("engine_speed", engine),
        ("encode", encode),
        ("language_speed", language),
        ("memory", memory),
        ("oracles", oracles),
        ("scenes", scenes),
        ("search", search),
        ("server_memory", server_memory),
        ("spatial_speed", spatial),
        ("train", train),
    ],
)
def test_the_page_is_made_of_its_json(root: Path, name: str, benchmark: ModuleType) -> None:
    results = root / "docs" / "results" / f"{name}.json"
    result = json.loads(results.read_text(encoding="utf-8"))
    assert results.with_suffix(".md").read_text(encoding="utf-8") == benchmark.page(result)
