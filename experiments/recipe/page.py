"""The result of `python -m experiments.recipe` as a page and a plot, next to the paper's row."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.differences import Gap, describe_correction, find_signs
from experiments.outcomes import PHOTOS
from experiments.recipe.run import POINTS, SEEDS
from experiments.reproduction import (
    ROBUST,
    Rows,
    earlier_procedure,
    find_rows,
    over_seeds,
    percent,
    points,
    points_over_seeds,
)
from perception_encoder.errors import MissingExtraError
from perception_encoder.evaluation.report import Table
from perception_encoder.files import replacing, writing

PAPER = {1: (78.9, 75.3), 5: (80.4, 78.3), 7: (81.0, 80.1), 9: (81.3, 80.9)}
"""ImageNet val and the mean of six robustness sets, in percent (section 2.1)."""


def page(result: dict[str, Any], plot: str) -> str:
    """Return the page in Markdown: one paragraph, one table, one plot; `plot` is the file name of its plot."""
    runs = sorted(result["runs"].values(), key=lambda run: (run["step"], run["seed"]))
    minutes = sum(run["seconds"] for run in runs) / 60
    text = (
        "Written by `python -m experiments.recipe`: the steps of section 2.1, each point with all steps before it, at "
        f"the size of the built-in model and with the same number of FLOPs; {minutes:.0f} minutes of training in all. "
        f"*{PHOTOS}* is the mean class accuracy on the test photographs, zero-shot, averaged over the tasks; "
        f"*{ROBUST}* the average over test sets unlike the training data: photographs changed in five ways, and "
        "drawings in a style that is never trained on, by their names. Percent ± half the width of the 95 % interval "
        "over images; differences in points. Only the interval of both seeds includes the seeds of training. "
        f"{describe_correction(len(_gaps(result)))} {earlier_procedure(runs)}{_settings(result)}"
        "Only these points were run, not single steps: a "
        "claim is about all steps between two points together, in runs as short as these and with these rates."
    )
    lines = ["# The recipe in small", "", *wrap(text, 118, break_on_hyphens=False), ""]
    plot_line = f"![both averages by step, and the paper's]({plot})"
    return "\n".join([*lines, _table(result, runs).markdown(), plot_line, ""])


def _settings(result: dict[str, Any]) -> str:
    """Return what differs between the points besides their steps, from the configurations of the runs."""
    configs = {run["step"]: run.get("config") for run in result["runs"].values()}
    first, last, middle = (configs[step] for step in (POINTS[0], POINTS[-1], POINTS[-2]))
    if not first or not last or not middle:
        return ""
    rates = [
        f"{optimizer['name'].upper() if optimizer['name'] == 'lamb' else 'AdamW'} at {optimizer['lr']:g}"
        + (f" ({optimizer['plain_lr']:g} for what has no trust ratio)" if optimizer["plain_lr"] else "")
        for optimizer in (first["optimizer"], middle["optimizer"])
    ]
    augmentation, masking = last["augmentation"], last["masking"]
    return (
        f"Step {POINTS[0]} has other rates than the rest: {rates[0]} in batches of {first['batch_size']} against "
        f"{rates[1]} in batches of {middle['batch_size']} pairs. Steps 8 and 9 were only run together, at the rates of "
        f"the steps before: a crop of {augmentation['scale'][0]:g} to {augmentation['scale'][1]:g} of the area with "
        f"jitter and flips, and masked regularisation of 1/{masking['every']} of a batch; the page does not show "
        "which of these, or the rates, has the effect. "
    )


def _table(result: dict[str, Any], runs: Rows) -> Table:
    names = (PHOTOS, ROBUST)
    seeds = [f"{name}, {part}" for name in names for part in (*(f"seed {seed}" for seed in SEEDS), "both seeds")]
    rows = []
    for step in POINTS:
        samples = next(run["samples"] for run in runs if run["step"] == step)
        cells = []
        for name in names:
            by_seed = find_rows(result["scores"], step=step, name=name)
            mean = sum(each["value"] for each in by_seed) / len(by_seed)
            cells += [*map(percent, by_seed), f"{100 * mean:.1f}"]
        rows.append((_steps(step), f"{samples:,}", *cells, *(f"{value:.1f}" for value in PAPER[step])))
    gaps = _gaps(result)
    signs = find_signs(gaps)
    for before, after in dict.fromkeys((before, after) for before, after, _ in gaps):
        cells = []
        for name in names:
            by_seed = find_rows(result["differences"], before=before, after=after, name=name)
            key = before, after, name
            cells += [*map(points, by_seed), points_over_seeds(gaps[key], signs[key])]
        paper = (f"{ours - theirs:+.1f}" for ours, theirs in zip(PAPER[after], PAPER[before], strict=True))
        rows.append((f"{_steps(before)} → {_steps(after)}", "", *cells, *paper))
    return Table(("steps", "pairs", *seeds, "paper: ImageNet", "paper: robustness"), tuple(rows))


def _gaps(result: dict[str, Any]) -> dict[tuple[int, int, str], Gap]:
    """Return the differences over both seeds, by the two points and the score."""
    gaps = {}
    for row in result["differences"]:
        before, after, name = row["before"], row["after"], row["name"]
        by_seed = find_rows(result["differences"], before=before, after=after, name=name)
        scores = {step: find_rows(result["scores"], step=step, name=name) for step in POINTS}
        gaps[before, after, name] = over_seeds(by_seed, scores[after], scores[before], list(scores.values()))
    return gaps


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot both averages by step, with intervals, next to the paper's; MissingExtraError without matplotlib."""
    scores = result["scores"]
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot") from None
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    positions = range(len(POINTS))
    for column, name in enumerate((PHOTOS, ROBUST)):
        axes = figure.add_subplot(1, 2, column + 1, title=name, xlabel="steps", ylabel="percent")
        axes.set_xticks(positions, [_steps(step) for step in POINTS])
        for seed in SEEDS:
            rows = [row for step in POINTS for row in find_rows(scores, step=step, seed=seed, name=name)]
            values = [100 * row["value"] for row in rows]
            below = [100 * (row["value"] - row["interval"][0]) for row in rows]
            above = [100 * (row["interval"][1] - row["value"]) for row in rows]
            shifted = [position + 0.06 * seed for position in positions]
            axes.errorbar(shifted, values, [below, above], marker="o", capsize=3, label=f"here, seed {seed}")
        paper = axes.twinx()
        paper.plot(
            positions,
            [PAPER[step][column] for step in POINTS],
            ":",
            color="grey",
            marker="s",
            label="the paper (right)",
        )
        axes.legend(handles=[*axes.get_legend_handles_labels()[0], *paper.get_legend_handles_labels()[0]], fontsize=7)
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _steps(step: int) -> str:
    return "1" if step == 1 else f"1–{step}"
