"""The result of `python -m experiments.language` as a page: one paragraph, one table, one plot, all from the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.differences import Gap, describe_correction, find_signs, format_gap, to_gap
from experiments.language.run import BOXES, CAPTIONS, QUESTIONS, ROWS
from perception_encoder.evaluation.report import Table, format_value
from perception_encoder.language_alignment.text.fresh_decoder import LAYERS, WIDTH
from perception_encoder.layer_analysis.plots import GREY, bare_axes, empty_figure, write_png

LINE = 118
GAINS = "gains"
WHEN = ("before", "after")
UNITS = {QUESTIONS: "%", BOXES: "%", CAPTIONS: ""}
PAPER = {"aligned with regularisation": "+ regularisation 78.1 to 79.9"}
"""What table 9 has for the same change of an alignment: averages over its tasks, 20 million samples."""
PAPER_REST = (
    "All rows of the paper's table 9 are alignments, in which the encoder is trained, so none belongs to the frozen "
    "encoder above: a linear projector has 77.2 there, an MLP 78.1; layer 50 of 50 has 75.9, layer 47 78.1, layer 41 "
    "76.9; a trained language model has 80.1, a frozen one 79.9."
)


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    text = wrap(" ".join(_text(result)), LINE, break_on_hyphens=False)
    aligned = {row.name for row in ROWS if row.aligned}
    frozen, trained = (
        _table(result, [row for row in result["table"] if (row["name"] in aligned) == each]) for each in (False, True)
    )
    lines = ["# Language alignment in small", "", *text, "", "The encoder is frozen:", "", frozen.markdown()]
    lines += ["The encoder was aligned before, and is frozen while the head is fitted:", "", trained.markdown()]
    lines += [*wrap(PAPER_REST, LINE, break_on_hyphens=False), ""]
    return "\n".join([*lines, f"![scores by layer before and after alignment]({plot})", ""])


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    sizes = result["sizes"]
    yield (
        "Written by `python -m experiments.language`: the built-in encoder's frozen tokens of rendered scenes at "
        f"{sizes['side']} px are read by a small fresh language model ({LAYERS} layers, width {WIDTH}) that is fitted "
        f"on {sizes['train']:,} scenes of ten objects with their questions, boxes and captions, and answers those of "
        f"{sizes['test']:,} new scenes. Table 9 in small: each row changes one setting of the row that it is compared "
        "with. For the plot, figure 13, "
        f"the encoder was first aligned ({sizes['alignment']['steps']:,} steps, LayerScale and DropPath 0.1) on "
        "questions and captions without boxes; then heads were fitted anew on each layer, boxes included."
    )
    yield (
        "Boxes are scored by their mean IoU. Intervals are over questions (those about a scene together) and "
        f"{result['seeds']} seeds, of heads and of alignment. "
        + describe_correction(len(_gaps(result)), result.get("recovered", False))
    )
    gaps = _gaps(result)
    signs = find_signs(gaps)
    gains = (f"{each} {format_gap(gaps[GAINS, each], signs[GAINS, each])}" for each in (QUESTIONS, BOXES, CAPTIONS))
    yield f"With regularisation, alignment changes the last layer's scores by: {', '.join(gains)}."
    better = [f"{when} alignment, {metric}" for (when, metric), sign in signs.items() if when in WHEN and sign > 0]
    yield f"A layer is shown to be better than the last for: {'; '.join(better) or 'no metric'}."
    unknown = [key for key, gap in gaps.items() if not gap.parts]
    if unknown:
        yield (
            f"The JSON does not hold the seeds' values of {len(unknown)} comparisons (of layers, and the captions), "
            "so their intervals are not shown and nothing is claimed of them."
        )
    yield "The runs are short and the encoder is small."


def _gaps(result: Mapping[str, Any]) -> dict[tuple[str, str], Gap]:
    """Return all differences, by row (or `GAINS`, or `WHEN` of a curve) and metric."""
    by_row = {
        row["name"]: {metric: each["by_seed"] for metric, each in row["scores"].items()} for row in result["table"]
    }
    kinds = {metric: [each[metric] for each in by_row.values()] for metric in (QUESTIONS, BOXES)}
    gaps = {}
    for row in result["table"]:
        for metric, gap in row["differences"].items():
            ours, theirs = by_row[row["name"]][metric], by_row[row["compared"]][metric]
            gaps[row["name"], metric] = to_gap(gap, ours, theirs, kinds[metric], unit=UNITS[metric])
    for metric, gap in result["gains"].items():
        ours, theirs = gap.get("by_seed") or ((), ())
        gaps[GAINS, metric] = to_gap(gap, ours, theirs, kinds.get(metric, (ours, theirs)), unit=UNITS[metric])
    for curve in result["curves"]:
        by_layer = dict(zip(curve["layers"], curve.get("by_seed", ()), strict=False))
        ours, theirs = (by_layer.get(layer, ()) for layer in (curve["best"], curve["layers"][-1]))
        others = len(curve["layers"]) - 1
        gap = to_gap(curve["gap"], ours, theirs, by_layer.values(), others, UNITS[curve["metric"]])
        gaps[curve["when"], curve["metric"]] = gap
    return gaps


def _table(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Table:
    names = (QUESTIONS, BOXES)
    scored, compared = (f"{name}, {UNITS[name]}" for name in names), (f"difference, {name}" for name in names)
    paper = [PAPER.get(row["name"], "") for row in rows]
    columns = ("", *scored, "compared with", *compared, *(["the paper"] if any(paper) else []))
    cells, gaps = [], _gaps(result)
    signs = find_signs(gaps)
    for row, theirs in zip(rows, paper, strict=True):
        values = [_score(row["scores"][name], UNITS[name]) for name in names]
        against = "" if row["compared"] == row["name"] else row["compared"]
        keys = [(row["name"], name) for name in names]
        differences = [format_gap(gaps.get(key), signs.get(key, 0)) for key in keys]
        cells.append((row["name"], *values, against, *differences, *([theirs] if any(paper) else [])))
    return Table(columns, tuple(cells))


def _score(score: Mapping[str, Any], unit: str) -> str:
    low, high = max(0.0, score["interval"][0]), min(1.0, score["interval"][1])
    return f"{format_value(score['value'], unit)} ({format_value(low, unit)}–{format_value(high, unit)})"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError unless the path ends in .png."""
    figure = empty_figure(9.9, 2.8)
    for number, metric in enumerate((QUESTIONS, BOXES, CAPTIONS), start=1):
        axes = figure.add_subplot(1, 3, number)
        bare_axes(axes)
        axes.set_title(metric)
        axes.set_xlabel("layer")
        for when, colour in (("before", GREY), ("after", "#0072B2")):
            (curve,) = [each for each in result["curves"] if (each["when"], each["metric"]) == (when, metric)]
            factor = 100 if UNITS[metric] == "%" else 1
            values = [factor * value for value in curve["values"]]
            pairs = zip(curve["interval"], curve["values"], strict=True)
            ends = [[factor * end for end in interval or (value, value)] for interval, value in pairs]
            low, high = zip(*ends, strict=True)
            axes.fill_between(curve["layers"], low, high, alpha=0.2, color=colour)
            axes.plot(curve["layers"], values, marker="o", color=colour, label=f"{when} alignment")
        axes.legend(fontsize=7)
    write_png(figure, path)
