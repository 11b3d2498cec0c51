"""The tables and plots of docs/results are those of their JSON, and the promises about them hold."""

from __future__ import annotations

import io
import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks.embed import EMBED, ENCODE
from benchmarks.parity import RESULTS as PARITY
from benchmarks.result_pages import FAULTS, MARKERS, PAGES, RESULTS, read_result, with_table
from benchmarks.result_plots import PLOTS
from perception_encoder.models.registry import MODELS


@pytest.mark.parametrize("name", PAGES)
def test_the_table_of_a_page_is_that_of_its_json(name: str) -> None:
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    assert text == with_table(text, PAGES[name](read_result)), "run: python -m benchmarks.result_pages"
    plots = 0 if name in ("gpu", "words") else 1
    assert len(re.findall(r"^!\[", text, re.MULTILINE)) == plots and text.count(MARKERS[0]) == 1


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_can_be_drawn(name: str) -> None:
    pytest.importorskip("matplotlib")
    drawn = io.StringIO()
    PLOTS[name](read_result).savefig(drawn, format="svg")
    assert drawn.getvalue().count("<path") > 20


def test_every_json_is_named_by_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in RESULTS.parent.rglob("*.md")).replace("(results/", "(")
    assert [path.name for path in RESULTS.glob("*.json") if f"({path.name})" not in text] == []


def test_faults_are_tested(root: Path) -> None:
    assert [test for *_, test in FAULTS if not (root / test).is_file()] == []


def test_a_large_model_embeds_files_nearly_as_fast_as_it_encodes() -> None:
    speeds = read_result("embed")["speeds"]["PE-Core-B16-224"]
    assert statistics.median(speeds[EMBED]) >= 0.85 * statistics.median(speeds[ENCODE])


def test_every_architecture_is_measured_and_agrees() -> None:
    rows = json.loads(PARITY.read_text(encoding="utf-8"))["rows"]
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
