"""The result of `python -m experiments.dense` as a page: text, a table and a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.dense.run import BEST, CORE, LAST, SPATIAL
from experiments.differences import Gap, describe_correction, find_signs, format_gap, to_gap
from perception_encoder.evaluation.report import Table, format_value
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from perception_encoder.layer_analysis.plots import GREY, bare_axes, empty_figure, write_png

WIDTH = 118
HUES = {COLOURS: "#999999", LAST: GREY, BEST: "#E69F00", SPATIAL: "#0072B2"}


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    text = wrap(" ".join(_text(result)), WIDTH, break_on_hyphens=False)
    lines = ["# Dense tasks in small", "", *text, "", _table(result).markdown()]
    return "\n".join([*lines, f"![each task's scores, with intervals]({plot})", ""])


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    sizes, heads = result["sizes"], max(row["head_seeds"] for row in result["curves"])
    layers = ", ".join(map(str, sizes["layers"]))
    yield (
        f"Written by `python -m experiments.dense`: frozen features of the built-in Core model, layers {layers}, and "
        f"of the last layer of the built-in Spatial model. Heads are fitted on at most {2 * sizes['items']} images and "
        f"tested on at most {sizes['items']}, of scenes with other objects; tracking takes no training, frames are "
        f"{sizes['short_side']} px high."
    )
    yield (
        f"Intervals are of 95 %, over images, or whole videos, and {heads} seeds of each head. The room is one video, "
        "so it has no interval. Core's best layer is chosen on the same test images, which favours it. Each encoder "
        "was trained with one seed: this compares the two built-in models, not methods. "
        + describe_correction(len(result["differences"]), result.get("recovered", False))
    )
    signs = find_signs(_gaps(result))
    for name, sign, word in ((LAST, 1, "better"), (LAST, -1, "worse"), (BEST, 1, "better"), (BEST, -1, "worse")):
        tasks = [task for task, against in signs if against == name and signs[task, against] == sign]
        if tasks:
            yield f"Spatial's last layer is shown to be {word} than {name} in {', '.join(tasks)}."


def _table(result: Mapping[str, Any]) -> Table:
    columns = ("task", COLOURS, LAST, BEST, "Spatial's last", f"Spatial against {LAST}", f"against {BEST}")
    gaps = _gaps(result)
    signs = find_signs(gaps)
    rows = []
    for task, scores in by_task(result).items():
        cells = []
        for name in HUES:
            score = scores.get(name)
            layer = f" (layer {score['layer']})" if score and name == BEST else ""
            cells.append("" if score is None else format_value(score["value"], score["unit"]) + layer)
        metric = scores[SPATIAL]["metric"]
        keys = [(task, name) for name in (LAST, BEST)]
        rows.append((f"{task}: {metric}", *cells, *(format_gap(gaps[key], signs[key]) for key in keys)))
    return Table(columns, tuple(rows))


def _gaps(result: Mapping[str, Any]) -> dict[tuple[str, str], Gap]:
    """Return how much better Spatial's last layer is, by task and by what it is compared with."""
    scores = by_task(result)
    gaps = {}
    for row in result["differences"]:
        task = row["task"]
        kinds = [each for curve in result["curves"] if curve["task"] == task for each in curve["by_seed"]]
        ours, theirs = (scores[task][name]["by_seed"] for name in (SPATIAL, row["against"]))
        gaps[task, row["against"]] = to_gap(row, ours, theirs, kinds)
    return gaps


def by_task(result: Mapping[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by task, and by column of the table, a score with its layer, interval, seeds, metric and unit."""
    tasks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["curves"]:
        layers = {CORE: {LAST: row["layers"][-1], BEST: row["best"]}}.get(row["model"], {row["model"]: row["best"]})
        for name, layer in layers.items():
            at = row["layers"].index(layer)
            shared = {key: row[key] for key in ("metric", "unit", "lower_is_better")}
            score = {"layer": layer, "value": row["values"][at]}
            score |= {"interval": row["interval"][at], "by_seed": row["by_seed"][at]}
            tasks.setdefault(row["task"], {})[name] = {**shared, **score}
    return tasks


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError unless the path ends in .png."""
    tasks = by_task(result)
    figure = empty_figure(2.4 * len(tasks), 2.6)
    for number, (task, scores) in enumerate(tasks.items(), start=1):
        axes = figure.add_subplot(1, len(tasks), number)
        bare_axes(axes)
        names = [name for name in HUES if name in scores]
        for at, name in enumerate(names):
            score = scores[name]
            scale = 100 if score["unit"] == "%" else 1
            ends = score["interval"] or [score["value"]] * 2
            axes.plot([at, at], [scale * end for end in ends], color=HUES[name], linewidth=1.5)
            axes.plot(at, scale * score["value"], marker="o", color=HUES[name])
        axes.set_xticks(range(len(names)), names, rotation=40, ha="right", fontsize=7)
        axes.set_xlim(-0.5, len(names) - 0.5)
        axes.set_title(task, loc="left", fontsize=9)
        first = scores[names[0]]
        axes.set_ylabel(f"{first['metric']}, {first['unit']}".rstrip(", "), fontsize=8)
        if first["lower_is_better"]:  # higher is better in all panels
            axes.invert_yaxis()
    write_png(figure, path, dots=100)
