"""The result of `python -m experiments.language` as a page: one paragraph, one table, one plot, all from the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.language.run import BOXES, CAPTIONS, QUESTIONS
from perception_encoder.evaluation.report import Table, format_value
from perception_encoder.language_alignment.text.fresh_decoder import LAYERS, WIDTH
from perception_encoder.layer_analysis.plots import GREY, bare_axes, empty_figure, write_png
from perception_encoder.layer_analysis.recommendation import format_difference

LINE = 118
UNITS = {QUESTIONS: "%", BOXES: "%", CAPTIONS: ""}
PAPER = {
    "linear projector": "linear 77.2, MLP 78.1",
    "layer 10": "layer 50 of 50 75.9, layer 47 78.1",
    "layer 8": "layer 41 76.9",
    "the same, frozen": "+ LLM unfrozen 79.9 to 80.1",
    "aligned with regularisation": "+ regularisation 78.1 to 79.9",
}
"""What table 9 has for the same change: averages over its tasks, 20 million samples."""


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    text = wrap(" ".join(_text(result)), LINE, break_on_hyphens=False)
    lines = ["# Language alignment in small", "", *text, "", _table(result).markdown()]
    return "\n".join([*lines, f"![scores by layer before and after alignment]({plot})", ""])


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    sizes = result["sizes"]
    yield (
        "Written by `python -m experiments.language`: the built-in encoder's frozen tokens of rendered scenes at "
        f"{sizes['side']} px are read by a small fresh language model ({LAYERS} layers, width {WIDTH}) that is fitted "
        f"on {sizes['train']:,} scenes of ten objects with their questions, boxes and captions, and answers those of "
        f"{sizes['test']:,} new scenes. Table 9 in small: each row changes one setting. For the plot, figure 13, "
        f"the encoder was first aligned ({sizes['alignment']['steps']:,} steps, LayerScale and DropPath 0.1) on "
        "questions and captions without boxes; then heads were fitted anew on each layer, boxes included."
    )
    yield (
        "Boxes are scored by their mean IoU. Intervals are of 95 %, over questions (those about a scene together) and "
        f"{result['seeds']} seeds, of heads and of alignment; differences in bold exclude zero."
    )
    gains = (f"{metric} {_gap(result['gains'][metric], UNITS[metric])}" for metric in (QUESTIONS, BOXES, CAPTIONS))
    yield f"Alignment changes the last layer's scores by: {', '.join(gains)}."
    for curve in result["curves"]:
        yield _best(curve)
    yield "What is not shown may still exist: the runs are short and the encoder is small."


def _best(curve: Mapping[str, Any]) -> str:
    last = curve["layers"][-1]
    where = f"{curve['when'].capitalize()} alignment, {curve['metric']}"
    if curve["best"] == last:
        return f"{where}: the last layer scores best."
    interval = curve["gap"]["interval"]
    better = interval is not None and interval[0] > 0
    gap = format_difference(curve["gap"]["value"], None, curve["unit"])
    verdict = "shown" if better else "not shown"
    return f"{where}: layer {curve['best']} scores best, {gap} over the last, which is {verdict} to be worse."


def _table(result: Mapping[str, Any]) -> Table:
    names = (QUESTIONS, BOXES)
    scored, compared = (f"{name}, {UNITS[name]}" for name in names), (f"difference, {name}" for name in names)
    columns = ("", *scored, *compared, "the paper")
    rows = []
    for row in result["table"]:
        values = [_score(row["scores"][name], UNITS[name]) for name in names]
        gaps = [_gap(row["differences"].get(name), UNITS[name]) for name in names]
        rows.append((row["name"], *values, *gaps, PAPER.get(row["name"], "")))
    return Table(columns, tuple(rows))


def _score(score: Mapping[str, Any], unit: str) -> str:
    low, high = max(0.0, score["interval"][0]), score["interval"][1]
    return f"{format_value(score['value'], unit)} ({format_value(low, unit)}–{format_value(high, unit)})"


def _gap(gap: Mapping[str, Any] | None, unit: str) -> str:
    if gap is None:
        return ""
    low, high = gap["interval"]
    text = f"{format_difference(gap['value'], None, unit)} ({format_difference(low, high, unit)})"
    return f"**{text}**" if low > 0 or high < 0 else text


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
