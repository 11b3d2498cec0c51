"""The report: one page that fetches nothing, tables that hold every score, and options that `pe embed` takes."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from perception_encoder.errors import MediaDecodeError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.layer_analysis.report import (
    COLUMNS,
    LayerReport,
    report_csv,
    report_json,
    report_page,
    write_report,
)
from perception_encoder.layer_analysis.sweep import Sweep, run_sweep
from tests.layer_analysis.toys import CLEAR, LightnessTask, ToyEncoder, named

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    store = FeatureCache(directory=tmp_path_factory.mktemp("store"))
    return run_sweep(ToyEncoder(), named(LightnessTask(), LightnessTask(name="dark", lower=True)), store)


@pytest.fixture(scope="module")
def report(sweep: Sweep) -> LayerReport:
    named = tuple(replace(curve, model="random:toy") for curve in sweep.curves)
    return LayerReport(sweeps=(sweep, replace(sweep, model="random:toy", curves=named)))


def test_every_score_is_in_the_table(report: LayerReport) -> None:
    rows = list(csv.DictReader(io.StringIO(report_csv(report))))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * 2 * 2 * 4
    first = report.sweeps[0].curves[0].scores[0]
    assert float(rows[0]["value"]) == pytest.approx(first.value, rel=1e-5)
    assert [float(rows[0][end]) for end in ("low", "high")] == pytest.approx(first.bounds(), rel=1e-5)


def test_recommendations_are_of_the_leading_metrics(report: LayerReport) -> None:
    value = json.loads(report_json(report))
    assert [
        (recommendation["task"], recommendation["metric"], recommendation["layer"])
        for recommendation in value["recommendations"]
    ] == [
        ("lightness", "likeness", CLEAR),
        ("dark", "error", CLEAR),
    ]
    assert value["recommendations"][0]["options"] == f"--layer {CLEAR} --pool mean"
    assert [model["name"] for model in value["models"]] == ["toy", "random:toy"]


def test_the_page_embeds_all_and_fetches_nothing(report: LayerReport, tmp_path: Path) -> None:
    paths = write_report(report, tmp_path)
    assert [path.name for path in paths] == ["report.html", "curves.png", "layers.csv", "layers.json"]
    text = paths[0].read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "<script" not in text and not re.search(r'(?:src|href)="(?!data:)', text)
    assert f"pe embed … --model toy --layer {CLEAR} --pool mean" in text and "random:toy (random weights)" in text
    with Image.open(paths[1]) as chart:
        assert chart.size[0] > 800


def test_names_from_outside_are_escaped(sweep: Sweep) -> None:
    nasty = replace(sweep, model="<b>\udcff", failures=(MediaDecodeError("<i>.jpg", "is cut"),))
    nasty = replace(nasty, curves=tuple(replace(curve, model=nasty.model) for curve in sweep.curves))
    text = "".join(report_page(LayerReport(sweeps=(nasty,))))
    assert "<b>\udcff" not in text and "&lt;b&gt;\\udcff" in text and "&lt;i&gt;.jpg: is cut" in text
    text.encode("utf-8")
