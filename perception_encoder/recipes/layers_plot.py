"""The curves of `pe reproduce layers` as small multiples: a row for each task, a column for each group of models.

Colours are Okabe and Ito's, which the colour-blind can tell apart: one for each way of pooling, paler for shorter runs.
A row has one scale, so that groups can be compared; of errors it is turned round, so that up is better everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from perception_encoder.evaluation.colour_encoder import COLOURS
from perception_encoder.layer_analysis.plots import GREY, GROUND, INK, bare_axes, empty_figure, write_png
from perception_encoder.recipes.reproduce_layers import BUILTIN, FIRST, LAST, LENGTHS, POOLS, UNTURNED, tower_name

LINES = {
    FIRST: ("#E69F00", "-"),
    LAST: ("#0072B2", "-"),
    BUILTIN: ("#009E73", "-"),
    (POOLS[0], LENGTHS[0]): ("#E69F00", (0, (4, 1.5))),
    (POOLS[0], LENGTHS[1]): ("#D55E00", "-"),
    (POOLS[1], LENGTHS[0]): ("#56B4E9", (0, (4, 1.5))),
    (POOLS[1], LENGTHS[1]): ("#0072B2", "-"),
}
"""Colour and dashes, of a model or of a kind of tower."""
UNTURNED_DASHES = (0, (1, 1.5))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError where it is no .png."""
    curves = {(row["model"], row["task"]): row for row in result["curves"]}
    tasks = list(dict.fromkeys(task for _, task in curves))
    columns = group(result)
    figure = empty_figure(3.6 * len(columns), 2.2 * len(tasks) + 0.9)
    grid = figure.subplots(len(tasks), len(columns), sharey="row", squeeze=False)
    for place, (task, row) in enumerate(zip(tasks, grid, strict=True)):
        for (title, models), axes in zip(columns.items(), row, strict=True):
            shown = {
                name: curves[name, task] for name in (*models, *_baselines(result, models)) if (name, task) in curves
            }
            if (COLOURS, task) in curves:
                shown[COLOURS] = curves[COLOURS, task]
            _draw_panel(axes, shown, models)
            if axes is row[0]:
                first = next(iter(shown.values()))
                figure_name = f"{first['figure']}, {first['unit']}".rstrip(", ").replace(", a", ",\na")
                axes.set_ylabel(f"{task}\n{figure_name}", fontsize=9, color=INK)
            if place == 0:
                axes.set_title(title, loc="left", fontsize=12, color=INK)
                axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1.14))
        if first["lower_is_better"]:
            row[0].invert_yaxis()
    for axes in grid[-1]:
        axes.set_xlabel("layer", fontsize=9)
    write_png(figure, path, dots=120)


def group(result: Mapping[str, Any]) -> dict[str, dict[str, tuple[str, Any]]]:
    """Columns by their titles: the models in each, with their lines."""
    depths = sorted({run["depth"] for run in result["runs"].values()})
    found: dict[str, dict[str, tuple[str, Any]]] = {
        "the recipe": {name: LINES[name] for name in (FIRST, LAST, BUILTIN)}
    }
    for depth in depths:
        kinds = [(pool, length) for pool in POOLS for length in LENGTHS]
        found[f"{depth} layers"] = {tower_name(depth, *kind): LINES[kind] for kind in kinds}
    return found


def _baselines(result: Mapping[str, Any], models: Iterable[str]) -> list[str]:
    beside = {model["name"]: model["beside"] for model in result["models"]}
    return list(dict.fromkeys(beside[name] for name in models))


def _draw_panel(axes: Any, shown: Mapping[str, Mapping[str, Any]], lines: Mapping[str, tuple[str, Any]]) -> None:
    bare_axes(axes)
    for name, row in shown.items():
        scale = 100 if row["unit"] == "%" else 1
        layers, values, low, high = (
            row["layers"],
            *([scale * each for each in row[k]] for k in ("values", "low", "high")),
        )
        if name == COLOURS:
            axes.axhline(values[0], color=INK, linewidth=1.1, linestyle=":", label="colours alone", zorder=1)
            continue
        colour, dashes = lines.get(name, (GREY, UNTURNED_DASHES if name == UNTURNED else "-"))
        axes.fill_between(layers, low, high, color=colour, alpha=0.10, linewidth=0)
        axes.plot(layers, values, color=colour, linestyle=dashes, linewidth=1.8, label=name)
        if name in lines:
            by_layer = dict(zip(layers, values, strict=True))
            axes.plot([row["best"]], [by_layer[row["best"]]], "o", color=colour, markersize=6)
            if row["best"] != layers[-1]:
                axes.plot([layers[-1]], [values[-1]], "o", color=colour, markerfacecolor=GROUND, markersize=5.5)
