"""Plots of layers: curves of tasks, tokens' norms and attention, and a picture's inside.

All are made with matplotlib's objects alone (no pyplot, no state), on a light ground. A model keeps its colour in every
plot; random weights are grey.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.files import replacing, writing
from perception_encoder.inference.feature_map import to_colours
from perception_encoder.inference.open_model import RANDOM
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from perception_encoder.layer_analysis.global_tokens import TIMES, TokenStatistics, first_global_layer
from perception_encoder.layer_analysis.inside import Inside
from perception_encoder.layer_analysis.recommendation import show
from perception_encoder.layer_analysis.sweep import LayerCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUND, INK, QUIET, LINE = "#fbfaf7", "#201e1b", "#77726a", "#e0dbd1"
PALETTE = ("#b0522b", "#2b6c8f", "#5d8a3a", "#7d5ba6", "#b58a1b")
GREY = "#a39d93"
ROWS = ("features", "alike", "attention", "received", "norms")
"""What a picture's inside can show, a row each."""
_LABELS = {
    "features": ("features", "three principal\ncomponents"),
    "alike": ("alike", "cosine to the\nmarked patch"),
    "attention": ("attention", "where the marked\npatch looks, × even"),
    "received": ("looked at", "by the median\npatch, × even"),
    "norms": ("norm", "length of\nthe tokens"),
}


def curves_figure(curves: Sequence[LayerCurve], columns: int = 2) -> Figure:
    """A chart for each task: its leading figure over the layers of every model, with intervals."""
    tasks = list(dict.fromkeys((curve.task, curve.figure) for curve in curves))
    columns = min(columns, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = empty_figure(5.2 * columns, 3.5 * rows)
    colours = model_colours([curve.model for curve in curves])
    for place, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(rows, columns, place)
        shown = [curve for curve in curves if (curve.task, curve.figure) == task]
        _draw_curves(axes, shown, colours)
        axes.set_title(task[0], loc="left", fontsize=13, color=INK)
    return figure


def _draw_curves(axes: Any, curves: Sequence[LayerCurve], colours: Mapping[str, str]) -> None:
    bare_axes(axes)
    unit = curves[0].unit
    scale = 100 if unit == "%" else 1
    for curve in curves:
        colour, layers = colours[curve.model], list(curve.scores)
        metrics = [score.metric for score in curve.scores.values()]
        values = scale * np.array([metric.value for metric in metrics])
        low, high = scale * np.array([metric.interval or (metric.value, metric.value) for metric in metrics]).T
        if curve.depth == 1:
            axes.axhline(values[0], color=colour, linewidth=1.2, linestyle=":", label=curve.model)
            continue
        baseline = curve.model.startswith(RANDOM)
        axes.fill_between(layers, low, high, color=colour, alpha=0.14, linewidth=0)
        style, width = ((0, (4, 3)), 1.4) if baseline else ("-", 2.0)
        axes.plot(layers, values, color=colour, linewidth=width, linestyle=style, label=curve.model)
        if not baseline:
            _mark_best(axes, curve, colour, scale)
    figure, better = curves[0].figure, "lower is better" if curves[0].lower_is_better else ""
    axes.set_ylabel(figure + (f", {unit}" if unit else "") + (f"\n({better})" if better else ""), fontsize=9)
    axes.set_xlabel("layer", fontsize=9)
    axes.margins(y=0.16)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")


def _mark_best(axes: Any, curve: LayerCurve, colour: str, scale: float) -> None:
    """A filled point at the best layer, with its figure, and a hollow one at the last."""
    best, last = curve.best, curve.last
    values = {layer: scale * curve.scores[layer].value for layer in (best, last)}
    axes.plot([best], [values[best]], "o", color=colour, markersize=7)
    if best != last:
        axes.plot([last], [values[last]], "o", color=colour, markerfacecolor=GROUND, markersize=6)
    share = best / max(1, curve.depth - 1)
    axes.annotate(
        f"layer {best}: {show(curve.scores[best].value, curve.unit)}",
        (best, values[best]),
        xytext=(0, -9 if curve.lower_is_better else 9),
        textcoords="offset points",
        ha="left" if share < 0.12 else "right" if share > 0.88 else "center",
        va="top" if curve.lower_is_better else "bottom",
        color=colour,
        fontsize=9,
    )


def tokens_figure(statistics: Mapping[str, Sequence[TokenStatistics]]) -> Figure:
    """Norms of tokens, and the attention that goes to global ones, over the layers of each model."""
    figure = empty_figure(10.4, 3.3)
    norms, attention = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    _draw_tokens(norms, attention, statistics)
    return figure


def _draw_tokens(norms: Any, attention: Any, statistics: Mapping[str, Sequence[TokenStatistics]]) -> None:
    colours = model_colours(list(statistics))
    for model, found in statistics.items():
        colour, layers = colours[model], [each.layer for each in found]
        lines = {"patches, median": ("-", [s.patch_norm for s in found])}
        if not model.startswith(RANDOM):
            lines["patches, largest"] = (":", [s.largest_norm for s in found])
            before = [s.prefix_norm for s in found if s.prefix_norm is not None]
            lines |= {"class, registers": ("--", before)} if before else {}
        for name, (style, values) in lines.items():
            label = f"{model}: {name}" if len(statistics) > 1 else name
            norms.plot(layers, values, style, color=colour, linewidth=1.8, label=label)
        attention.plot(layers, [100 * s.global_attention for s in found], color=colour, linewidth=1.8, label=model)
        start = first_global_layer(found)
        if start is not None:
            attention.axvline(start, color=colour, linewidth=1, linestyle=(0, (2, 2)))
    norms.set_title("length of tokens", loc="left", fontsize=11, color=INK)
    attention.set_title("attention to global tokens", loc="left", fontsize=11, color=INK)
    norms.set_ylabel("norm", fontsize=9)
    attention.set_ylabel("% of the patches' attention", fontsize=9)
    attention.set_ylim(0, max(5.0, attention.get_ylim()[1]))
    for axes in (norms, attention):
        bare_axes(axes)
        axes.set_xlabel("layer", fontsize=9)
    norms.legend(frameon=False, fontsize=7, labelcolor=INK, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    starts = {model: first_global_layer(found) for model, found in statistics.items()}
    said = [f"{m}: {'none that last' if n is None else f'from layer {n} on'}" for m, n in starts.items()]
    attention.text(
        0.98, 0.95, "\n".join(said), transform=attention.transAxes, ha="right", va="top", fontsize=8, color=QUIET
    )


def inside_figure(inside: Inside, rows: Sequence[str] = ROWS) -> Figure:
    """A picture's inside: a column for each layer, a row for each of `rows`, and beneath them its tokens by layer."""
    unknown = [row for row in rows if row not in ROWS]
    if unknown or not rows:
        raise ConfigError(f"rows can be {', '.join(ROWS)}; there is no {', '.join(unknown) or 'row at all'}")
    layers, (h, w) = list(inside.maps), inside.grid
    cell = 1.75
    height = cell * h / w if h <= w else cell
    width = cell if h <= w else cell * w / h
    figure = empty_figure(1.5 + (width + 0.12) * (len(layers) + 1), 0.75 + (height + 0.12) * len(rows) + 2.9)
    top, bottom = cast(Any, figure).subfigures(2, 1, height_ratios=(0.75 + (height + 0.12) * len(rows), 2.9))
    grid = top.add_gridspec(len(rows), len(layers) + 1)
    picture = top.add_subplot(grid[0, 0])
    picture.imshow(inside.image, extent=(-0.5, w - 0.5, h - 0.5, -0.5))
    picture.set_title(inside.model, fontsize=10, loc="left", color=INK)
    _mark(picture, inside)
    for place, row in enumerate(rows):
        for column, layer in enumerate(layers, start=1):
            axes = top.add_subplot(grid[place, column])
            _draw_cell(axes, inside, row, layer)
            if place == 0:
                axes.set_title(f"layer {layer}", fontsize=10, color=INK)
            if column == 1:
                name, what = _LABELS[row]
                axes.set_ylabel(
                    f"{name}\n{what}", fontsize=8, color=INK, rotation=0, ha="right", va="center", labelpad=8
                )
    norms, attention = bottom.subplots(1, 2)
    _draw_tokens(norms, attention, {inside.model: inside.statistics})
    for axes in (norms, attention):
        for layer in layers:
            axes.axvline(layer, color=LINE, linewidth=0.8, zorder=0)
    return figure


def _draw_cell(axes: Any, inside: Inside, row: str, layer: int) -> None:
    _frame(axes)
    if row == "features":
        axes.imshow(to_colours(inside.maps[layer]))
    elif row == "alike":
        axes.imshow(inside.alike(layer), cmap="magma", vmin=0, vmax=1)
        _mark(axes, inside)
    elif row == "attention":
        axes.imshow(inside.looked_at(layer), cmap="magma", vmin=0, vmax=_top(inside.looked_at(layer)))
        _mark(axes, inside)
    elif row == "received":
        axes.imshow(inside.received(layer), cmap="magma", vmin=0, vmax=_top(inside.received(layer)))
    else:
        axes.imshow(inside.norms(layer), cmap="viridis")
    if row in ("attention", "received", "norms"):
        values = {"attention": inside.looked_at, "received": inside.received, "norms": inside.norms}[row](layer)
        least = f"{values.min():.3g} to " if row == "norms" else "up to "
        axes.set_xlabel(f"{least}{values.max():.3g}", fontsize=7, color=QUIET, labelpad=2)


def _top(values: np.ndarray) -> float:
    """The end of a scale in even shares: what stands out does so, and noise does not look like it."""
    return max(TIMES / 2, float(values.max()))


def _mark(axes: Any, inside: Inside) -> None:
    for colour, width in (("white", 2.4), (PALETTE[0], 1.1)):  # seen on light and on dark
        axes.plot(
            [inside.column],
            [inside.row],
            "s",
            markersize=5,
            markerfacecolor="none",
            markeredgecolor=colour,
            markeredgewidth=width,
        )
    _frame(axes)


def _frame(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(LINE)


def bare_axes(axes: Any) -> None:
    """Axes with little ink."""
    from matplotlib.ticker import MaxNLocator

    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8)
    axes.xaxis.label.set_color(QUIET)
    axes.yaxis.label.set_color(QUIET)
    axes.grid(axis="y", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.set_facecolor("none")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=12))


def model_colours(models: Sequence[str]) -> dict[str, str]:
    """A colour for each model, in their order; greys for random weights and for colours alone."""
    names = list(dict.fromkeys(models))
    plain = [name for name in names if not name.startswith(RANDOM) and name != COLOURS]
    return {name: PALETTE[plain.index(name) % len(PALETTE)] if name in plain else GREY for name in names}


def empty_figure(width: float, height: float) -> Figure:
    """A figure to be filled, its sides in inches; MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot") from None
    return Figure(figsize=(width, height), layout="constrained", facecolor=GROUND)


def to_svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes each time."""
    from matplotlib import rc_context

    stream = io.BytesIO()
    with rc_context({"svg.hashsalt": "layers"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def write_colours(inside: Inside, path: Path) -> None:
    """Write the first layer's features as colours, at the size of the picture; errors as those of `write_png`."""
    _check_name(path)
    colours = Image.fromarray(to_colours(next(iter(inside.maps.values()))))
    with writing(path), replacing(path) as temporary:
        colours.resize(inside.image.size, Image.Resampling.NEAREST).save(temporary, "PNG")


def write_png(figure: Figure, path: Path, dots: int = 150) -> None:
    """Write a figure as PNG, whole or not at all; ConfigError where it is no .png, OutputError where it cannot be."""
    _check_name(path)
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dots)


def _check_name(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ConfigError(f"{path}: a plot's name ends in .png")
