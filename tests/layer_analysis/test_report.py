"""An analysis fails before hours are spent; its report is one page that fetches nothing, and tables of every score."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, MediaDecodeError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.layer_analysis.image_analysis import SAMPLE
from perception_encoder.layer_analysis.report import (
    COLUMNS,
    LayerReport,
    analyse,
    report_csv,
    report_json,
    report_page,
    write_report,
)
from perception_encoder.layer_analysis.sweep import Sweep, run_sweep
from perception_encoder.models.tower import Tower
from perception_encoder.runtime.layer_towers import LayerTowers
from tests.layer_analysis.conftest import Load
from tests.layer_analysis.test_image_analysis import DEPTH, tower
from tests.layer_analysis.toys import CLEAR, LightnessTask, named, toy_layers

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    store = FeatureCache(directory=tmp_path_factory.mktemp("store"))
    return run_sweep(toy_layers(), named(LightnessTask(), LightnessTask(name="dark", lower=True)), store)


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


def changed(name: str = "built", **changes: object) -> LayerFeatures:
    return LayerFeatures(LayerTowers(name, replace(tower(3).towers.tower, **changes), "cpu", torch.float32))


def test_what_a_model_lacks_is_an_error_before_the_first_sweep(tmp_path: Path, load: Load) -> None:
    config, task = FeatureCache(directory=tmp_path / "store"), LightnessTask()
    load(changed(), changed("shallow", depth=2), changed("fixed", fixed_size=True))
    with pytest.raises(ConfigError, match="layer 5 does not exist"):
        analyse(["built", "shallow"], named(task), config, [5])
    with pytest.raises(ConfigError, match="fixed takes images of 24x24 only"):
        analyse(["built", "fixed"], named(replace(task, image_size=(12, 24))), config, None, image_size=(12, 24))
    with pytest.raises(ConfigError, match="two models have the name built"):
        analyse(["built", "built"], named(task), config, None)
    assert task.evaluated == [] and not config.directory.exists()


def silent() -> LayerFeatures:
    """A model that does not attend through torch."""

    class SilentTower(Tower):
        def run(self, pixels: torch.Tensor, layers: Sequence[int]) -> list[torch.Tensor]:
            return [pixels.flatten(1)[:, :144].unflatten(1, (36, 4))] * len(layers)

    return LayerFeatures(LayerTowers("silent", SilentTower(**vars(tower(3).towers.tower)), "cpu", torch.float32))


def test_a_model_that_cannot_be_analysed_inside_has_its_report(tmp_path: Path, load: Load) -> None:
    load(silent(), changed())
    report = analyse(["silent", "built"], named(LightnessTask()), FeatureCache(directory=tmp_path), None)
    assert [sweep.model for sweep in report.sweeps] == ["silent", "built"] and list(report.statistics) == ["built"]
    note = (
        "the attention of silent cannot be analysed: "
        "silent does not compute all attention with torch, so it cannot be shown"
    )
    assert report.notes == (note,) and report.example is None
    page, _, _, data = write_report(report, tmp_path / "out")
    assert note in page.read_text(encoding="utf-8")
    assert json.loads(data.read_text(encoding="utf-8"))["notes"] == [note]


def test_a_sample_that_cannot_be_decoded_costs_no_report(tmp_path: Path, load: Load) -> None:
    load(changed())
    count = 2 * SAMPLE + 2
    task = LightnessTask(count=count, broken=tuple(range(0, count, 2)))  # every image of the sample
    report = analyse(["built"], named(task), FeatureCache(directory=tmp_path), None)
    assert len(report.curves[0].scores) == DEPTH and len(report.notes) == 1
    assert "greys: none of the sampled images can be decoded" in report.notes[0]
    with pytest.raises(DataError, match="no images were given"):
        changed().attention([], [0])
