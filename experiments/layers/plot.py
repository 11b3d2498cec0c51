"""The curves of `python -m experiments.layers` as small multiples, a panel for each task.

Colours are Okabe and Ito's, which colour-blind people can tell apart. The axis of an error is inverted, so that higher
is better everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.layers.run import BUILTIN, FIRST, LAST, NORMED
from experiments.reproduction import with_new_keys
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from perception_encoder.layer_analysis.plots import GREY, INK, bare_axes, empty_figure, write_png

LINES = {FIRST: "#E69F00", LAST: "#0072B2", BUILTIN: "#009E73"}
"""Colours of the trained models; the others are grey."""
COLUMNS = 3


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError unless the path ends in .png."""
    result = with_new_keys(result)
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
        if rows[0]["lower_is_better"]:
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
