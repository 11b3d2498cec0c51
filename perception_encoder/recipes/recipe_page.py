"""What `pe reproduce recipe` found, as a page and a plot, beside the paper's row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from perception_encoder.errors import MissingExtraError
from perception_encoder.evaluation.outcomes import PHOTOS
from perception_encoder.evaluation.report import Table
from perception_encoder.files import replacing, writing
from perception_encoder.recipes.reproduce_recipe import POINTS, SEEDS
from perception_encoder.recipes.reproduction import ROBUST, Figures, claim, percent, points

PAPER = {1: (78.9, 75.3), 5: (80.4, 78.3), 7: (81.0, 80.1), 9: (81.3, 80.9)}
"""ImageNet val and the mean of six robustness sets, in percent (section 2.1)."""


def page(result: dict[str, Any], plot: str) -> str:
    """The page in Markdown; `plot` is the name of the picture beside it."""
    runs = sorted(result["runs"].values(), key=lambda run: (run["step"], run["seed"]))
    minutes = sum(run["seconds"] for run in runs) / 60
    return "\n".join(
        [
            "# The recipe in small",
            "",
            "Written by `pe reproduce recipe`: the steps of section 2.1, each point with all steps before it, at the",
            f"size of the built-in model. Every run has the same number of FLOPs; {minutes:.0f} minutes of training in",
            "all. Percent ± half the width of the 95 % interval over pictures; a column for each seed.",
            "",
            f"*{PHOTOS}*: mean class accuracy on the test photographs, zero-shot, averaged over the tasks. *{ROBUST}*:",
            "the average over test sets unlike training: the photographs changed in five ways, and drawings in a style",
            "that is never trained on, by their names.",
            "",
            _main_table(result, runs).markdown(),
            f"![both averages by step, and the paper's]({plot})",
            "",
            "## What can be said",
            "",
            "Differences in points, paired over pictures. A difference is claimed only where the intervals of both",
            "seeds exclude zero on the same side.",
            "",
            _difference_table(result["differences"]).markdown(),
            f"Other than in the paper: {_disagreements(result['differences']) or 'nothing that is claimed'}.",
            "",
            "## Each set",
            "",
            "Means of the seeds, in percent.",
            "",
            _set_table(result["figures"]).markdown(),
        ]
    )


def _main_table(result: dict[str, Any], runs: Figures) -> Table:
    seeds = [f"{name}, seed {seed}" for name in (PHOTOS, ROBUST) for seed in SEEDS]
    rows = []
    for step in POINTS:
        samples = next(run["samples"] for run in runs if run["step"] == step)
        cells = [percent(_find(result["figures"], step, seed, name)) for name in (PHOTOS, ROBUST) for seed in SEEDS]
        rows.append((_steps(step), f"{samples:,}", *cells, *(f"{value:.1f}" for value in PAPER[step])))
    return Table(("steps", "pairs", *seeds, "paper: ImageNet", "paper: robustness"), tuple(rows))


def _difference_table(differences: Figures) -> Table:
    rows = []
    for first in differences[:: len(SEEDS) * 2]:
        before, after = first["before"], first["after"]
        for column, name in enumerate((PHOTOS, ROBUST)):
            found = [d for d in differences if (d["before"], d["after"], d["name"]) == (before, after, name)]
            paper = PAPER[after][column] - PAPER[before][column]
            cells = map(points, found)
            rows.append((f"{_steps(before)} → {_steps(after)}", name, *cells, claim(found), f"{paper:+.1f}"))
    return Table(("steps", "figure", *(f"seed {seed}" for seed in SEEDS), "claim", "paper"), tuple(rows))


def _disagreements(differences: Figures) -> str:
    """Claims whose sign is not the paper's."""
    found = []
    for first in differences[:: len(SEEDS) * 2]:
        before, after = first["before"], first["after"]
        for column, name in enumerate((PHOTOS, ROBUST)):
            said = claim([d for d in differences if (d["before"], d["after"], d["name"]) == (before, after, name)])
            theirs = "better" if PAPER[after][column] > PAPER[before][column] else "worse"
            if said not in ("none", theirs):
                found.append(f"{_steps(before)} → {_steps(after)} is {said} on {name}")
    return "; ".join(found)


def _set_table(figures: Figures) -> Table:
    names = tuple(dict.fromkeys(figure["name"] for figure in figures))
    rows = []
    for step in POINTS:
        means = [sum(_find(figures, step, seed, name)["value"] for seed in SEEDS) / len(SEEDS) for name in names]
        rows.append((_steps(step), *(f"{100 * mean:.1f}" for mean in means)))
    return Table(("steps", *names), tuple(rows))


def draw(result: dict[str, Any], path: Path) -> None:
    """Plot both averages by step, with intervals, beside the paper's; MissingExtraError without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "plot") from None
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    places = range(len(POINTS))
    for column, name in enumerate((PHOTOS, ROBUST)):
        axes = figure.add_subplot(1, 2, column + 1, title=name, xlabel="steps", ylabel="percent")
        axes.set_xticks(places, [_steps(step) for step in POINTS])
        for seed in SEEDS:
            found = [_find(result["figures"], step, seed, name) for step in POINTS]
            values = [100 * f["value"] for f in found]
            below = [100 * (f["value"] - f["ci"][0]) for f in found]
            above = [100 * (f["ci"][1] - f["value"]) for f in found]
            shifted = [place + 0.06 * seed for place in places]
            axes.errorbar(shifted, values, [below, above], marker="o", capsize=3, label=f"here, seed {seed}")
        paper = axes.twinx()
        paper.plot(
            places, [PAPER[step][column] for step in POINTS], ":", color="grey", marker="s", label="the paper (right)"
        )
        axes.legend(handles=[*axes.get_legend_handles_labels()[0], *paper.get_legend_handles_labels()[0]], fontsize=7)
    with writing(path), replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _find(figures: Figures, step: int, seed: int, name: str) -> Mapping[str, Any]:
    return next(f for f in figures if (f["step"], f["seed"], f["name"]) == (step, seed, name))


def _steps(step: int) -> str:
    return "1" if step == 1 else f"1–{step}"
