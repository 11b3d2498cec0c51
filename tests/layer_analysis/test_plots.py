"""Plots are the same each time, models keep their colours, and an image's analysis is drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.inference.feature_map import to_colours
from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.image_analysis import TIMES, analyse_image
from perception_encoder.layer_analysis.plots import (
    GAP,
    LEAST_SIDE,
    features_side_by_side,
    plot_curves,
    plot_image,
    to_svg,
    write_png,
)
from perception_encoder.layer_analysis.sweep import run_sweep
from tests.layer_analysis import test_sweep
from tests.layer_analysis.test_image_analysis import dark, tower
from tests.layer_analysis.toys import LightnessTask, named, toy_layers

pytest.importorskip("matplotlib")


def test_plots_are_the_same_each_time(tmp_path: Path) -> None:
    curves = run_sweep(toy_layers(), named(LightnessTask()), FeatureCache(directory=tmp_path)).curves
    assert to_svg(plot_curves(curves)) == to_svg(plot_curves(curves))
    for curve, axes in zip(curves, plot_curves(curves).axes, strict=True):
        scale = 100 if curve.unit == "%" else 1
        drawn = [[round(float(y), 3) for y in line.get_ydata()] for line in axes.lines]
        assert [round(scale * score.value, 3) for score in curve.scores.values()] in drawn


@pytest.mark.parametrize(("best", "aligned"), [(0, "left"), (5, "left"), (8, "center"), (11, "right")])
def test_the_best_layer_s_label_stays_beside_its_plot(best: int, aligned: str) -> None:
    """Though only some layers are evaluated."""
    whole = test_sweep.curve([0.5 + 0.3 * (layer == best) for layer in range(12)], spread=0.01)
    some = replace(whole, scores={layer: whole.scores[layer] for layer in sorted({5, 8, 11, best})})
    (axes,) = plot_curves([some]).axes
    assert [label.get_horizontalalignment() for label in axes.texts] == [aligned]


def test_what_is_drawn_are_the_analysis_own_values(tmp_path: Path) -> None:
    """Each cell's image and its scale; the lines of norms, and of attention in % from 0 on."""
    analysis = analyse_image(tower(3), dark(8), [0, 7])
    figure = plot_image(analysis)
    assert [axis.get_title() for axis in figure.axes if axis.get_title().startswith("layer ")] == ["layer 0", "layer 7"]
    labels = [axis.get_ylabel().split("\n")[0] for axis in figure.axes if axis.get_ylabel()][:5]
    assert labels == ["features", "similarity", "attention", "received", "norm"]
    cells = [axis.images[0] for axis in figure.axes[1:] if axis.images]
    for layer, (_, similarity, attention, received, norms) in zip((0, 7), (cells[:5], cells[5:]), strict=True):
        np.testing.assert_allclose(similarity.get_array(), analysis.similarities(layer))
        assert similarity.get_clim() == (0, 1)
        for cell, values in (
            (attention, analysis.patch_attention(layer)),
            (received, analysis.median_attention(layer)),
        ):
            np.testing.assert_allclose(cell.get_array(), values)
            assert cell.get_clim() == (0, max(TIMES / 2, values.max()))
        np.testing.assert_allclose(norms.get_array(), analysis.norms(layer))
    norms, attention = figure.axes[-2:]
    drawn = [line.get_ydata() for line in (norms.lines[0], attention.lines[0])]
    rows = analysis.statistics
    np.testing.assert_allclose(drawn, [[row.patch_norm for row in rows], [100 * row.global_attention for row in rows]])
    write_png(figure, tmp_path / "x.png", dots=40)
    with Image.open(tmp_path / "x.png") as image:
        assert len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0)) > 50
    with pytest.raises(ConfigError, match=r"name must end in \.png"):
        write_png(figure, tmp_path / "x.jpg")


def test_each_encoder_has_a_column_and_each_image_a_row() -> None:
    encoder = load_layers("builtin")
    pixels = np.random.default_rng(0).integers(0, 255, (30, 60, 3)).astype(np.uint8)
    images = [Image.fromarray(pixels), Image.new("RGB", (40, 40), "blue")]
    drawn = features_side_by_side([encoder, encoder.at(3)], images, cell=100)
    assert drawn.size == (3 * 100 + 2 * GAP, 50 + 100 + GAP)
    first, second = (np.asarray(drawn)[:50, at : at + 100] for at in (106, 212))
    assert not np.array_equal(first, second)
    (whole,) = encoder.at(3).maps(images[:1], (LEAST_SIDE // 2, LEAST_SIDE))
    resized = Image.fromarray(to_colours(whole)).resize((100, 50), Image.Resampling.NEAREST)
    assert np.array_equal(second, np.asarray(resized))
