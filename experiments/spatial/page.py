"""The result of `python -m experiments.spatial` as a page: text, a table, a plot, and a row of feature images."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.differences import Gap, describe_correction, find_signs, format_gap, to_gap
from experiments.spatial.alignments import ALIGNED, BOTH, CORE, MASKS, OWN
from perception_encoder.evaluation.report import Table, format_value
from perception_encoder.layer_analysis.plots import GREY, bare_axes, empty_figure, write_png

WIDTH = 118
LINES = {CORE: GREY, OWN: "#E69F00", MASKS: "#0072B2", BOTH: "#009E73"}
COLUMNS = 3


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    text = wrap(" ".join(_text(result)), WIDTH, break_on_hyphens=False)
    images = plot.replace(".png", "_features.png")
    lines = ["# Spatial alignment in small", "", *text, "", _table(result).markdown()]
    lines += [f"![each task's score over the layers, before and after]({plot})", ""]
    lines += [f"![features of the last layer: image, {', '.join((CORE, *ALIGNED))}]({images})", ""]
    return "\n".join(lines)


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    alignments = result["sizes"]["alignments"]
    yield (
        "Written by `python -m experiments.spatial`: the built-in encoder (Core) is aligned three times, "
        f"{alignments['steps']:,} steps of {alignments['batch_size']} images at {alignments['side']} px, to its own "
        "layer 8, to the masks of rendered scenes, and to both. Layers of all four are then evaluated; scenes show "
        "objects of models that no alignment saw."
    )
    heads = max(row["head_seeds"] for row in result["curves"])
    yield (
        f"Intervals are of 95 %, over images or whole videos and {heads} seeds of each fitted head; of few videos they "
        "are Student's. Each alignment has one seed, so the page compares these four encoders, not methods. "
        + describe_correction(len(result["differences"]), result.get("recovered", False))
    )
    signs = find_signs(_gaps(result))
    better = [f"{task}, {model}" for (task, model, against), sign in signs.items() if against == "last" and sign > 0]
    yield f"The last layer is shown to be better than Core's last for: {'; '.join(better) or 'none'}."
    worse = [f"{task}, {model}" for (task, model, against), sign in signs.items() if against == "best" and sign < 0]
    yield f"It is shown to be worse than Core's best layer for: {'; '.join(worse) or 'none'}."


def _table(result: Mapping[str, Any]) -> Table:
    columns = ("task", "encoder", "best layer", "best", "last", "last against Core's last", "against Core's best")
    gaps = _gaps(result)
    signs = find_signs(gaps)
    rows, before = [], ""
    for row in sorted(result["curves"], key=lambda row: [each["task"] for each in result["curves"]].index(row["task"])):
        task, unit, model = row["task"], row["unit"], row["model"]
        heading = f"{task}: {row['metric']}" if task != before else ""
        best, last = (format_value(_value(row, layer), unit) for layer in (row["best"], row["layers"][-1]))
        keys = [(task, model, against) for against in ("last", "best")]
        differences = [format_gap(gaps.get(key), signs.get(key, 0)) for key in keys]
        rows.append((heading, model, str(row["best"]), best, last, *differences))
        before = task
    return Table(columns, tuple(rows))


def _gaps(result: Mapping[str, Any]) -> dict[tuple[str, str, str], Gap]:
    """Return how much better the last layer is, by task, encoder, and the layer of Core that it is compared with."""
    curves = {(row["task"], row["model"]): row for row in result["curves"]}
    gaps = {}
    for row in result["differences"]:
        task, own, core = row["task"], curves[row["task"], row["model"]], curves[row["task"], CORE]
        kinds = [each for (name, _), curve in curves.items() if name == task for each in curve["by_seed"]]
        theirs = core["by_seed"][core["layers"].index(row["layer"])]
        gaps[task, row["model"], row["against"]] = to_gap(row, own["by_seed"][-1], theirs, kinds)
    return gaps


def _value(row: Mapping[str, Any], layer: int) -> float:
    return float(row["values"][row["layers"].index(layer)])


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError unless the path ends in .png."""
    tasks = list(dict.fromkeys(row["task"] for row in result["curves"]))
    lines = -(-len(tasks) // COLUMNS)
    figure = empty_figure(3.3 * COLUMNS, 2.6 * lines)
    for number, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(lines, COLUMNS, number)
        bare_axes(axes)
        rows = [row for row in result["curves"] if row["task"] == task]
        for row in rows:
            scale = 100 if row["unit"] == "%" else 1
            values = [scale * value for value in row["values"]]
            axes.plot(row["layers"], values, marker="o", markersize=3, color=LINES[row["model"]], label=row["model"])
        axes.set_title(task, loc="left", fontsize=10)
        axes.set_ylabel(f"{rows[0]['metric']}, {rows[0]['unit']}".rstrip(", "), fontsize=8)
        axes.set_xlabel("layer", fontsize=8)
        if rows[0]["lower_is_better"]:  # higher is better in all panels
            axes.invert_yaxis()
        if number == 1:
            axes.legend(frameon=False, fontsize=7)
    write_png(figure, path, dots=100)
