"""Draw task curves, token norms, similarity of layers, an image's analysis, and models' features side by side.

A model has the same colour in every plot; random weights are grey.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from perception_encoder.dense_prediction.predictions import write_image
from perception_encoder.errors import ConfigError, needs_extra
from perception_encoder.evaluation.results import format_value
from perception_encoder.files import replacing, writing
from perception_encoder.inference.feature_map import map_grid, to_colours
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.layer_analysis.image_analysis import (
    TIMES,
    ImageAnalysis,
    TokenStatistics,
    analyse_image,
    first_global_layer,
)
from perception_encoder.layer_analysis.similarity import MEASURES, ModelSimilarity
from perception_encoder.layer_analysis.sweep import COLOURS, LayerCurve
from perception_encoder.models.registry import RANDOM
from perception_encoder.preprocess.image import open_image

if TYPE_CHECKING:
    from matplotlib.figure import Figure


GROUND, INK, QUIET, LINE = "#fbfaf7", "#201e1b", "#77726a", "#e0dbd1"
PALETTE = ("#b0522b", "#2b6c8f", "#5d8a3a", "#7d5ba6", "#b58a1b")
GREY = "#a39d93"
ROWS = (
    "features\nthree principal\ncomponents",
    "similarity\nto the\nmarked patch",
    "attention\nof the marked\npatch, × even",
    "received\nfrom the median\npatch, × even",
    "norm\nof the tokens",
)
"""Labels of the rows of an image's plot."""


def plot_curves(curves: Sequence[LayerCurve]) -> Figure:
    """Plot the main metric of each task over the layers of every model, with intervals."""
    tasks = list(dict.fromkeys((curve.task, curve.metric) for curve in curves))
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = empty_figure(5.2 * columns, 3.5 * rows)
    colours = model_colours([curve.model for curve in curves])
    for number, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(rows, columns, number)
        _draw_curves(axes, [curve for curve in curves if (curve.task, curve.metric) == task], colours)
        axes.set_title(task[0], loc="left", fontsize=13, color=INK)
    return figure


def _draw_curves(axes: Any, curves: Sequence[LayerCurve], colours: Mapping[str, str]) -> None:
    _bare_axes(axes)
    unit = curves[0].unit
    scale = 100 if unit == "%" else 1
    for curve in curves:
        colour, layers = colours[curve.model], list(curve.scores)
        scores = curve.scores.values()
        values = scale * np.array([score.value for score in scores])
        low, high = scale * np.array([score.bounds() or (score.value, score.value) for score in scores]).T
        if curve.depth == 1:
            axes.axhline(values[0], color=colour, linewidth=1.2, linestyle=":", label=curve.model)
            continue
        baseline = curve.model.startswith(RANDOM)
        axes.fill_between(layers, low, high, color=colour, alpha=0.14, linewidth=0)
        style, width = ((0, (4, 3)), 1.4) if baseline else ("-", 2.0)
        axes.plot(layers, values, color=colour, linewidth=width, linestyle=style, label=curve.model)
        if not baseline:
            _mark_best(axes, curve, colour, scale)
    direction = "\n(lower is better)" if curves[0].lower_is_better else ""
    axes.set(xlabel="layer", ylabel=curves[0].metric + (f", {unit}" if unit else "") + direction)
    axes.margins(y=0.16)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")


def _mark_best(axes: Any, curve: LayerCurve, colour: str, scale: float) -> None:
    """Draw a filled point with the score at the best layer, and a hollow one at the last."""
    best, last = curve.best, curve.last
    values = {layer: scale * curve.scores[layer].value for layer in (best, last)}
    axes.plot([best], [values[best]], "o", color=colour, markersize=7)
    if best != last:
        axes.plot([last], [values[last]], "o", color=colour, markerfacecolor=GROUND, markersize=6)
    first = min(curve.scores)
    share = (best - first) / max(1, last - first)
    axes.annotate(
        f"layer {best}: {format_value(curve.scores[best].value, curve.unit)}",
        (best, values[best]),
        xytext=(0, -9 if curve.lower_is_better else 9),
        textcoords="offset points",
        ha="left" if share < 0.12 else "right" if share > 0.88 else "center",
        va="top" if curve.lower_is_better else "bottom",
        color=colour,
        fontsize=9,
    )


def plot_tokens(statistics: Mapping[str, Sequence[TokenStatistics]]) -> Figure:
    """Plot token norms and attention to global tokens over the layers of each model."""
    figure = empty_figure(10.4, 3.3)
    _draw_tokens(figure.subplots(1, 2), statistics)
    return figure


def _draw_tokens(pair: Sequence[Any], statistics: Mapping[str, Sequence[TokenStatistics]]) -> None:
    norms, attention = pair
    colours = model_colours(list(statistics))
    starts = {model: first_global_layer(rows) for model, rows in statistics.items()}
    for model, rows in statistics.items():
        colour, layers = colours[model], [row.layer for row in rows]
        lines = {"patches, median": ("-", [row.patch_norm for row in rows])}
        if not model.startswith(RANDOM):
            lines["patches, largest"] = (":", [row.largest_norm for row in rows])
            prefix = [row.prefix_norm for row in rows if row.prefix_norm is not None]
            lines |= {"class, registers": ("--", prefix)} if prefix else {}
        for name, (style, values) in lines.items():
            label = f"{model}: {name}" if len(statistics) > 1 else name
            norms.plot(layers, values, style, color=colour, linewidth=1.8, label=label)
        attention.plot(layers, [100 * row.global_attention for row in rows], color=colour, linewidth=1.8, label=model)
        if starts[model] is not None:
            attention.axvline(starts[model], color=colour, linewidth=1, linestyle=(0, (2, 2)))
    labels = {"norms of tokens": "norm", "attention to global tokens": "% of the patches' attention"}
    for axes, (title, label) in zip(pair, labels.items(), strict=True):
        _bare_axes(axes)
        axes.set_title(title, loc="left", fontsize=11, color=INK)
        axes.set(xlabel="layer", ylabel=label)
    attention.set_ylim(0, max(5.0, attention.get_ylim()[1]))
    text = "\n".join(f"{m}: {'no lasting ones' if n is None else f'from layer {n} on'}" for m, n in starts.items())
    attention.text(0.98, 0.95, text, transform=attention.transAxes, ha="right", va="top", fontsize=8, color=QUIET)
    norms.legend(frameon=False, fontsize=7, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)


def plot_similarity(similarity: ModelSimilarity) -> Figure:
    """Plot CKA and RSA of a model's layers (rows) with another's (columns) as two matrices."""
    height, width = (0.6 + 0.16 * len(layers) for layers in similarity.layers)
    figure = empty_figure(2 * max(3.4, width) + 1.2, max(3.0, height))
    pair = figure.subplots(1, 2)
    for axes, name in zip(pair, MEASURES, strict=True):
        _frame(axes)
        image = axes.imshow(getattr(similarity, name).value, cmap="magma", vmin=0, vmax=1, origin="lower")
        axes.set_title(name.upper(), loc="left", fontsize=11, color=INK)
        for axis, model, layers in zip((axes.yaxis, axes.xaxis), similarity.models, similarity.layers, strict=True):
            shown = range(0, len(layers), -(-len(layers) // 12))
            axis.set_ticks(shown, [str(layers[place]) for place in shown])
            axis.set_label_text(f"layer of {model}", fontsize=9, color=QUIET)
        axes.tick_params(colors=QUIET, labelsize=8, length=0)
    figure.colorbar(image, ax=list(pair), shrink=0.9).ax.tick_params(colors=QUIET, labelsize=8)
    return figure


def plot_image(analysis: ImageAnalysis) -> Figure:
    """Plot an image's analysis: a column per layer, a row for each of `ROWS`, and below them its tokens by layer."""
    layers, (h, w) = list(analysis.maps), analysis.grid
    cell = 1.75
    height, width = cell * min(1, h / w), cell * min(1, w / h)
    upper = 0.75 + (height + 0.12) * len(ROWS)
    figure = empty_figure(1.5 + (width + 0.12) * (len(layers) + 1), upper + 2.9)
    top, bottom = cast(Any, figure).subfigures(2, 1, height_ratios=(upper, 2.9))
    grid = top.add_gridspec(len(ROWS), len(layers) + 1)
    axes = top.add_subplot(grid[0, 0])
    axes.imshow(analysis.image, extent=(-0.5, w - 0.5, h - 0.5, -0.5))
    axes.set_title(analysis.model, fontsize=10, loc="left", color=INK)
    _mark(axes, analysis)
    for column, layer in enumerate(layers, start=1):
        cells = [top.add_subplot(grid[row, column]) for row in range(len(ROWS))]
        _draw_layer(cells, analysis, layer)
        cells[0].set_title(f"layer {layer}", fontsize=10, color=INK)
        if column == 1:
            for axes, label in zip(cells, ROWS, strict=True):
                axes.set_ylabel(label, fontsize=8, color=INK, rotation=0, ha="right", va="center", labelpad=8)
    below = bottom.subplots(1, 2)
    _draw_tokens(below, {analysis.model: analysis.statistics})
    for axes in below:
        for layer in layers:
            axes.axvline(layer, color=LINE, linewidth=0.8, zorder=0)
    return figure


def _draw_layer(cells: Sequence[Any], analysis: ImageAnalysis, layer: int) -> None:
    features, similarity, attention, received, norms = cells
    features.imshow(to_colours(analysis.maps[layer]))
    similarity.imshow(analysis.similarities(layer), cmap="magma", vmin=0, vmax=1)
    for axes, values in ((attention, analysis.patch_attention(layer)), (received, analysis.median_attention(layer))):
        # the scale is at least half of what makes a patch global, so that noise does not stand out
        axes.imshow(values, cmap="magma", vmin=0, vmax=max(TIMES / 2, float(values.max())))
        axes.set_xlabel(f"up to {values.max():.3g}", fontsize=7, color=QUIET, labelpad=2)
    values = analysis.norms(layer)
    norms.imshow(values, cmap="viridis")
    norms.set_xlabel(f"{values.min():.3g} to {values.max():.3g}", fontsize=7, color=QUIET, labelpad=2)
    for axes in (similarity, attention):
        _mark(axes, analysis)
    for axes in cells:
        _frame(axes)


def _mark(axes: Any, analysis: ImageAnalysis) -> None:
    at = [analysis.column], [analysis.row]
    for colour, width in (("white", 2.4), (PALETTE[0], 1.1)):  # visible on light and on dark
        axes.plot(*at, "s", markersize=5, markerfacecolor="none", markeredgecolor=colour, markeredgewidth=width)
    _frame(axes)


def _frame(axes: Any) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color(LINE)


def _bare_axes(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=QUIET, fontsize=9)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """Return a colour for each model in order; grey for random weights and for colour alone."""
    names = list(dict.fromkeys(models))
    plain = [name for name in names if not name.startswith(RANDOM) and name != COLOURS]
    return {name: PALETTE[plain.index(name) % len(PALETTE)] if name in plain else GREY for name in names}


def empty_figure(width: float, height: float) -> Figure:
    """Return an empty plot with sides in inches; MissingExtraError without matplotlib."""
    with needs_extra("plot", "matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), layout="constrained", facecolor=GROUND)


def to_svg(figure: Figure) -> bytes:
    """Return a plot as SVG, with reproducible bytes."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "layers"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def write_png(figure: Figure, path: Path, dots: int = 150) -> None:
    """Write a plot as PNG, whole or not at all; ConfigError for another suffix, OutputError if it fails."""
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path} is written as PNG; its name must end in .png")
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dots)


LEAST_SIDE = 512
"""Minimum longer side of an image at the encoders' input, in pixels; the paper draws images of 512 px and above."""
GAP = 6


def features_side_by_side(
    encoders: Sequence[LayerFeatures], images: Sequence[Image.Image], cell: int = 256
) -> Image.Image:
    """Draw a row per image: the image, then its features at each encoder's selected layer, in order.

    Each map has its own colours, as in `to_colours`. `cell`: pixels of a cell's longer side.
    """
    sizes = [map_grid((image.height, image.width), cell) for image in images]  # width first
    width = (cell + GAP) * (1 + len(encoders)) - GAP
    canvas = Image.new("RGB", (width, sum(height + GAP for _, height in sizes) - GAP), "white")
    top = 0
    for image, size in zip(images, sizes, strict=True):
        canvas.paste(image.convert("RGB").resize(size, Image.Resampling.BICUBIC), (0, top))
        for column, encoder in enumerate(encoders, start=1):
            patch = encoder.patch_size
            h, w = map_grid(image.size, -(-LEAST_SIDE // patch))
            features = Image.fromarray(to_colours(encoder.maps([image], (h * patch, w * patch))[0]))
            canvas.paste(features.resize(size, Image.Resampling.NEAREST), (column * (cell + GAP), top))
        top += size[1] + GAP
    return canvas


def draw_features(
    image: Path,
    out: Path,
    models: Sequence[ModelSpec],
    layers: Sequence[int] | None = None,
    at: tuple[float, float] = (0.5, 0.5),
) -> str:
    """Draw the features of an image; return a line that says what is drawn.

    Args:
        image: The file.
        out: The file to write.
        models: One, to draw its layers; or several, to draw one layer of each side by side.
        layers: 0-based; by default about six, or of several models the last.
        at: The point to compare with, from (0, 0) (top left) to (1, 1).

    Raises:
        ConfigError: Several models and several layers, or a layer or a point that does not exist.
    """
    opened = open_image(image)
    if len(models) > 1:
        if layers is not None and len(layers) != 1:
            raise ConfigError("--baseline draws one layer of each model; choose it with --layer")
        encoders = [load_layers(spec, layer=layers[0] if layers else None) for spec in models]
        write_image(features_side_by_side(encoders, [opened]), out)
        drawn = ", ".join(f"{encoder.name} layer {encoder.layer}" for encoder in encoders)
        return f"from left to right: the image, {drawn}"
    analysis = analyse_image(load_layers(models[0]), opened, layers, at=at)
    write_png(plot_image(analysis), out)
    start = first_global_layer(analysis.statistics)
    return f"{analysis.model}: {'no global tokens' if start is None else f'global tokens from layer {start}'}"
