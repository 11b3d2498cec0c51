"""The result of `python -m experiments.layers` as a page: one paragraph, one table, one plot, all from the JSON.

The plot has a panel for each task. Its colours are Okabe and Ito's, which colour-blind people can tell apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.differences import Gap, describe_correction, find_signs, format_gap, to_gap
from experiments.layers.run import BUILTIN, FIRST, LAST, NORMED
from experiments.layers.tasks import ONE_SIZE, SIZE
from perception_encoder.evaluation.report import Table, format_value
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from perception_encoder.layer_analysis.plots import GREY, INK, bare_axes, empty_figure, write_png

WIDTH = 118
LINES = {FIRST: "#E69F00", LAST: "#0072B2", BUILTIN: "#009E73"}
"""Colours of the trained models; the others are grey."""
COLUMNS = 3
DATA = {
    "classification": "photographs",
    "retrieval": "photographs, cosine",
    "segmentation": "rendered scenes, objects or background, linear head",
    "depth of scenes": "rendered scenes, medians aligned, DPT head",
    "depth of rooms": "one walk through a rendered living room, DPT head",
    "tracking": "videos, label propagation",
    "captions": "similarity of captions, cosine",
}


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    return "\n".join(
        [
            "# Layers in small",
            "",
            *wrap(" ".join(_text(result)), WIDTH, break_on_hyphens=False),
            "",
            _table(result).markdown(),
            f"![each task's score over the layers of all models]({plot})",
            "",
        ]
    )


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    rows = result["curves"]
    seeds = max(row["head_seeds"] for row in rows)
    small = " and ".join(task for task in ONE_SIZE if any(row["task"] == task for row in rows)).capitalize()
    yield (
        f"Written by `python -m experiments.layers`: each task over {len(rows[0]['layers'])} of the layers of the "
        "built-in model and of the two ends of the [recipe in small](recipe.md), with the built-in model's random "
        f"weights (grey) and, in tracking, colours alone (dotted) as baselines. {small} are at {SIZE} px, videos at "
        "240 px, the rest at the last size that a model was trained at. No layer is normalised, not even the last, as "
        f"in the reference's `forward_features`{_normed(result)}."
    )
    yield (
        "Intervals are over the images, or whole videos and sequences, "
        f"and {seeds} seeds of each fitted head; those of the best layer over the output hold for all layers at once."
    )
    single = sorted({row["task"] for row in rows if row["gap"]["standard_error"] is None and len(row["layers"]) > 1})
    if single:
        yield f"No interval, and so no claim, for {', '.join(single)}: its test frames are of one sequence."
    signs = find_signs(_gaps(result))
    yield describe_correction(len(signs), result.get("recovered", False))
    behind = [f"{task}, {model}" for (task, model), sign in signs.items() if sign]
    names = "; ".join(behind)
    count = f"{len(behind)} of {len(_rows(result))} rows"
    yield f"The output is shown to be worse than the best layer in {count}" + (f" (bold): {names}." if names else ".")
    yield (
        "Each model was trained with one seed, so the page shows nothing about depth, pooling, the recipe or longer "
        "training, and does not compare models."
    )


def _normed(result: Mapping[str, Any]) -> str:
    """Return what the final norm does to the built-in model's output, task by task."""
    rows = {(row["model"], row["task"]): row for row in result["curves"]}
    changes = []
    for (model, task), row in rows.items():
        if model == NORMED:
            plain = rows[BUILTIN, task]
            values = (format_value(each["values"][-1], each["unit"]) for each in (row, plain))
            changes.append("{} {} instead of {}".format(task, *values))
    return f"; with the final norm the built-in model's output has {', '.join(changes)}" if changes else ""


def _table(result: Mapping[str, Any]) -> Table:
    columns = ("task", "model", "best layer", "best", "output", "best over output", "random weights' best")
    cells, before, gaps = [], "", _gaps(result)
    signs = find_signs(gaps)
    for row in _rows(result):
        unit, task = row["unit"], row["task"]
        heading = f"{task}: {row['metric']}, {DATA[task]}; {_count(row)}" if task != before else ""
        best, output = (format_value(_value(row, layer), unit) for layer in (row["best"], row["layers"][-1]))
        random = "–" if "random_best" not in row else format_value(row["random_best"], unit)
        key = task, row["model"]
        gap = "no layer scores better" if row["best"] == row["layers"][-1] else format_gap(gaps[key], signs[key])
        cells.append((heading, row["model"], str(row["best"]), best, output, gap, random))
        before = task
    return Table(columns, tuple(cells))


def _count(row: Mapping[str, Any]) -> str:
    items, blocks = row["items"], row["blocks"]
    return f"{items:,} items" + (f" in {blocks:,} block{'s' * (blocks > 1)}" if blocks != items else "")


def _gaps(result: Mapping[str, Any]) -> dict[tuple[str, str], Gap]:
    """Return how much better the best layer is than the output, by task and trained model."""
    gaps = {}
    for row in _rows(result):
        kinds = [each for other in result["curves"] if other["task"] == row["task"] for each in other["by_seed"]]
        best, output = (row["by_seed"][row["layers"].index(layer)] for layer in (row["best"], row["layers"][-1]))
        difference = {**row["gap"], "unit": row["unit"], "blocks": row["blocks"]}
        gaps[row["task"], row["model"]] = to_gap(difference, best, output, kinds, len(row["layers"]) - 1)
    return gaps


def _rows(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the rows of the trained models, task by task."""
    trained = {model["name"] for model in result["models"] if model["baseline"] is not None}
    tasks = dict.fromkeys(row["task"] for row in result["curves"] if row["model"] != COLOURS)
    return [row for task in tasks for row in result["curves"] if row["task"] == task and row["model"] in trained]


def _value(row: Mapping[str, Any], layer: int) -> float:
    return float(row["values"][row["layers"].index(layer)])


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError unless the path ends in .png."""
    tasks = list(dict.fromkeys(row["task"] for row in result["curves"]))
    lines = -(-len(tasks) // COLUMNS)
    figure = empty_figure(3.3 * COLUMNS, 2.6 * lines)
    for number, task in enumerate(tasks, start=1):
        axes = figure.add_subplot(lines, COLUMNS, number)
        rows = [row for row in result["curves"] if row["task"] == task and row["model"] != NORMED]
        _draw_panel(axes, rows)
        axes.set_title(task, loc="left", fontsize=11, color=INK)
        axes.set_ylabel(f"{rows[0]['metric']}, {rows[0]['unit']}".rstrip(", ").replace(", a", ",\na"), fontsize=8)
        axes.set_xlabel("layer", fontsize=8)
        if rows[0]["lower_is_better"]:  # higher is better in all panels
            axes.invert_yaxis()
        if number == 1:
            axes.legend(frameon=False, fontsize=7, labelcolor=INK)
    write_png(figure, path, dots=100)


def _draw_panel(axes: Any, rows: list[Mapping[str, Any]]) -> None:
    bare_axes(axes)
    for row in rows:
        name, scale = row["model"], 100 if row["unit"] == "%" else 1
        layers, values = row["layers"], [scale * value for value in row["values"]]
        if name == COLOURS:
            axes.axhline(values[0], color=INK, linewidth=1.1, linestyle=":", zorder=1)
            continue
        colour = LINES.get(name, GREY)
        ends = [each or [value, value] for each, value in zip(row["interval"], row["values"], strict=True)]
        low, high = ([scale * end[side] for end in ends] for side in (0, 1))
        axes.fill_between(layers, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(layers, values, color=colour, label=name)
