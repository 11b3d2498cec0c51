"""Plots of layers: curves of tasks, tokens' norms and attention, and a picture's inside.

All are made with matplotlib's objects alone (no pyplot, no state), on a light ground. A model keeps its colour in every
plot; random weights are grey.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, MissingExtraError
from perception_encoder.evaluation.layer_encoders import RANDOM
from perception_encoder.files import replacing, writing
from perception_encoder.inference.feature_map import to_colours
from perception_encoder.layer_analysis.global_tokens import TIMES, TokenStatistics, first_global_layer
from perception_encoder.layer_analysis.inside import Inside
from perception_encoder.layer_analysis.recommendation import recommend, show
from perception_encoder.layer_analysis.sweep import LayerCurve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GROUND, INK, QUIET, LINE = "#fbfaf7", "#201e1b", "#77726a", "#e0dbd1"
COLOURS = ("#b0522b", "#2b6c8f", "#5d8a3a", "#7d5ba6", "#b58a1b")
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
    figure = _figure(5.2 * columns, 3.5 * rows)
    colours = model_colours([curve.model for curve in curves])
    for place, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(rows, columns, place)
        shown = [curve for curve in curves if (curve.task, curve.figure) == task]
        _draw_curves(axes, shown, colours)
        axes.set_title(task[0], loc="left", fontsize=13, color=INK)
    return figure


def _draw_curves(axes: Any, curves: Sequence[LayerCurve], colours: Mapping[str, str]) -> None:
    _bare(axes)
    unit = curves[0].unit
    scale = 100 if unit == "%" else 1
    for curve in curves:
        colour, layers = colours[curve.model], list(curve.scores)
        metrics = [score.metric for score in curve.scores.values()]
        values = scale * np.array([metric.value for metric in metrics])
        low, high = scale * np.array([metric.ci for metric in metrics]).T
        axes.fill_between(layers, low, high, color=colour, alpha=0.14, linewidth=0)
        dashed = curve.model.startswith(RANDOM)
        axes.plot(
            layers,
            values,
            color=colour,
            linewidth=1.4 if dashed else 2,
            label=curve.model,
            linestyle=(0, (4, 3)) if dashed else "-",
        )
        if dashed:
            continue
        found = recommend(curve)
        best = scale * curve.scores[found.best].value
        axes.plot([found.best], [best], "o", color=colour, markersize=7)
        axes.plot([found.last], [values[-1]], "o", color=colour, markerfacecolor=GROUND, markersize=6)
        above = not curve.lower_is_better
        text = f"{found.best}: {show(curve.scores[found.best].value, unit)}"
        offset = (0, 9 if above else -9)
        side = (
            "center"
            if 0.12 < found.best / max(1, curve.depth - 1) < 0.88
            else "left"
            if found.best < curve.depth / 2
            else "right"
        )
        axes.annotate(
            text,
            (found.best, best),
            xytext=offset,
            textcoords="offset points",
            ha=side,
            va="bottom" if above else "top",
            color=colour,
            fontsize=9,
        )
    figure, better = curves[0].figure, "lower is better" if curves[0].lower_is_better else ""
    axes.set_ylabel(figure + (f", {unit}" if unit else "") + (f"\n({better})" if better else ""), fontsize=9)
    axes.set_xlabel("layer", fontsize=9)
    axes.margins(y=0.16)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8, labelcolor=INK, loc="best")


def tokens_figure(statistics: Mapping[str, Sequence[TokenStatistics]]) -> Figure:
    """Norms of tokens, and the attention that goes to global ones, over the layers of each model."""
    figure = _figure(10.4, 3.3)
    colours = model_colours(list(statistics))
    norms, attention = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for model, found in statistics.items():
        colour, layers = colours[model], [each.layer for each in found]
        name = f"{model}: " if len(statistics) > 1 else ""
        norms.plot(layers, [s.patch_norm for s in found], color=colour, linewidth=2, label=f"{name}patches, median")
        norms.plot(
            layers, [s.largest_norm for s in found], ":", color=colour, linewidth=1.6, label=f"{name}patches, largest"
        )
        if found[0].prefix_norm is not None:
            norms.plot(
                layers,
                [s.prefix_norm for s in found],
                "--",
                color=colour,
                linewidth=1.2,
                label=f"{name}class and registers",
            )
        attention.plot(layers, [100 * s.global_attention for s in found], color=colour, linewidth=2, label=model)
        start = first_global_layer(found)
        if start is not None:
            attention.axvline(start, color=colour, linewidth=1, linestyle=(0, (2, 2)))
            attention.annotate(
                f"from layer {start}",
                (start, 1),
                xycoords=("data", "axes fraction"),
                xytext=(4, -4),
                textcoords="offset points",
                va="top",
                fontsize=9,
                color=colour,
            )
    norms.set_title("length of tokens", loc="left", fontsize=12, color=INK)
    attention.set_title(
        f"attention to global tokens (looked at {TIMES:g} times an even share)", loc="left", fontsize=12, color=INK
    )
    norms.set_ylabel("norm", fontsize=9)
    attention.set_ylabel("% of the patches' attention", fontsize=9)
    for axes in (norms, attention):
        _bare(axes)
        axes.set_xlabel("layer", fontsize=9)
        axes.legend(frameon=False, fontsize=8, labelcolor=INK)
    attention.set_ylim(0, max(5.0, attention.get_ylim()[1]))
    return figure


def inside_figure(inside: Inside, rows: Sequence[str] = ROWS) -> Figure:
    """A picture's inside: a column for each layer, a row for each of `rows`, and beneath them its tokens by layer."""
    unknown = [row for row in rows if row not in ROWS]
    if unknown or not rows:
        raise ConfigError(f"rows can be {', '.join(ROWS)}; there is no {', '.join(unknown) or 'row at all'}")
    layers, (h, w) = list(inside.maps), inside.grid
    cell = 1.75
    height = cell * h / w if h <= w else cell
    width = cell if h <= w else cell * w / h
    figure = _figure(1.5 + (width + 0.12) * (len(layers) + 1), 0.75 + (height + 0.12) * len(rows) + 2.5)
    top, bottom = figure.subfigures(2, 1, height_ratios=(0.75 + (height + 0.12) * len(rows), 2.5))
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
    _draw_tokens(bottom, inside)
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
        axes.imshow(inside.norms(layer), cmap="cividis", vmin=0)
    if row in ("attention", "received", "norms"):
        values = {"attention": inside.looked_at, "received": inside.received, "norms": inside.norms}[row](layer)
        axes.set_xlabel(f"up to {values.max():.3g}", fontsize=7, color=QUIET, labelpad=2)


def _top(values: np.ndarray) -> float:
    """The end of a scale in even shares: what stands out does so, and noise does not look like it."""
    return max(TIMES / 2, float(values.max()))


def _draw_tokens(figure: Any, inside: Inside) -> None:
    norms, attention = figure.subplots(1, 2)
    found, layers = inside.statistics, [each.layer for each in inside.statistics]
    norms.plot(layers, [s.patch_norm for s in found], color=COLOURS[0], linewidth=2, label="patches, median")
    norms.plot(layers, [s.largest_norm for s in found], ":", color=COLOURS[0], linewidth=1.6, label="patches, largest")
    if found[0].prefix_norm is not None:
        norms.plot(
            layers, [s.prefix_norm for s in found], "--", color=COLOURS[1], linewidth=1.4, label="class, registers"
        )
    attention.plot(layers, [100 * s.global_attention for s in found], color=COLOURS[0], linewidth=2)
    start = inside.global_from
    attention.set_title(
        "attention to global tokens" + (": none" if start is None else f": from layer {start} on"),
        loc="left",
        fontsize=10,
        color=INK,
    )
    norms.set_title("length of tokens", loc="left", fontsize=10, color=INK)
    norms.legend(frameon=False, fontsize=7, labelcolor=INK)
    attention.set_ylabel("% of the patches' attention", fontsize=8)
    attention.set_ylim(0, max(5.0, attention.get_ylim()[1]))
    for axes in (norms, attention):
        _bare(axes)
        axes.set_xlabel("layer", fontsize=8)
        for layer in inside.maps:
            axes.axvline(layer, color=LINE, linewidth=0.8, zorder=0)


def _mark(axes: Any, inside: Inside) -> None:
    axes.plot(
        [inside.column],
        [inside.row],
        "s",
        markersize=5,
        markerfacecolor="none",
        markeredgecolor="white",
        markeredgewidth=2.4,
    )
    axes.plot(
        [inside.column],
        [inside.row],
        "s",
        markersize=5,
        markerfacecolor="none",
        markeredgecolor=COLOURS[0],
        markeredgewidth=1.1,
    )
    _frame(axes)


def _frame(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_color(LINE)


def _bare(axes: Any) -> None:
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
    """A colour for each model, in their order; grey for random weights."""
    colours: dict[str, str] = {}
    for model in dict.fromkeys(models):
        plain = [m for m in colours if not m.startswith(RANDOM)]
        colours[model] = GREY if model.startswith(RANDOM) else COLOURS[len(plain) % len(COLOURS)]
    return colours


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "eval") from None
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
