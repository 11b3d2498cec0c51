"""The report: one page that fetches nothing, tables that hold every figure, and options that `pe embed` takes."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError, MediaDecodeError
from perception_encoder.layer_analysis.inside import look_inside
from perception_encoder.layer_analysis.plots import curves_figure, inside_figure, model_colours, to_svg, write_png
from perception_encoder.layer_analysis.report import COLUMNS, LayerReport, to_csv, to_html, to_json, write_report
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import Sweep, run_sweep
from tests.layer_analysis.test_global_tokens import dark, tower
from tests.layer_analysis.toys import CLEAR, LightnessTask, ToyEncoder

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    store = StoreConfig(folder=tmp_path_factory.mktemp("store"))
    return run_sweep(ToyEncoder(), [LightnessTask(), LightnessTask(name="dark", lower=True)], store)


@pytest.fixture(scope="module")
def report(sweep: Sweep) -> LayerReport:
    named = tuple(replace(curve, model="random:toy") for curve in sweep.curves)
    return LayerReport(sweeps=(sweep, replace(sweep, model="random:toy", curves=named)))


def test_every_figure_is_in_the_table(report: LayerReport) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(report))))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 2 * 2 * 2 * 4
    first = report.sweeps[0].curves[0].scores[0].metric
    assert float(rows[0]["value"]) == pytest.approx(first.value, rel=1e-5)
    assert [float(rows[0][end]) for end in ("low", "high")] == pytest.approx(first.interval, rel=1e-5)


def test_recommendations_are_of_the_leading_figures(report: LayerReport) -> None:
    said = json.loads(to_json(report))
    assert [(each["task"], each["figure"], each["layer"]) for each in said["recommendations"]] == [
        ("lightness", "likeness", CLEAR),
        ("dark", "error", CLEAR),
    ]
    assert said["recommendations"][0]["options"] == f"--layer {CLEAR} --pool mean"
    assert [model["name"] for model in said["models"]] == ["toy", "random:toy"]


def test_the_page_holds_all_and_fetches_nothing(report: LayerReport, tmp_path: Path) -> None:
    made = write_report(report, tmp_path)
    assert [path.name for path in made] == ["report.html", "curves.png", "layers.csv", "layers.json"]
    text = made[0].read_text(encoding="utf-8")
    assert "default-src 'none'" in text and "<script" not in text and not re.search(r'(?:src|href)="(?!data:)', text)
    assert f"pe embed … --model toy --layer {CLEAR} --pool mean" in text and "random:toy (random weights)" in text
    with Image.open(made[1]) as chart:
        assert chart.size[0] > 800


def test_names_from_outside_are_escaped(sweep: Sweep) -> None:
    nasty = replace(sweep, model="<b>\udcff", failures=(MediaDecodeError("<i>.jpg", "is cut"),))
    nasty = replace(nasty, curves=tuple(replace(curve, model=nasty.model) for curve in sweep.curves))
    text = "".join(to_html(LayerReport(sweeps=(nasty,))))
    assert "<b>\udcff" not in text and "&lt;b&gt;\\udcff" in text and "&lt;i&gt;.jpg: is cut" in text
    text.encode("utf-8")


def test_plots_are_the_same_each_time(report: LayerReport) -> None:
    assert to_svg(curves_figure(report.leading)) == to_svg(curves_figure(report.leading))


def test_a_model_keeps_its_colour() -> None:
    colours = model_colours(["a", "random:a", "b", "a", "colours"])
    assert colours["random:a"] == colours["colours"] and len(set(colours.values())) == 3


def test_a_picture_from_inside_is_drawn(tmp_path: Path) -> None:
    inside = look_inside(tower(3), dark(8), [0, 7])
    write_png(inside_figure(inside, ["features", "received"]), tmp_path / "x.png", dots=40)
    with Image.open(tmp_path / "x.png") as drawn:
        pixels = np.asarray(drawn.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50
    with pytest.raises(ConfigError, match="there is no depth"):
        inside_figure(inside, ["depth"])
    with pytest.raises(ConfigError, match=r"name ends in \.png"):
        write_png(inside_figure(inside, ["norms"]), tmp_path / "x.jpg")
