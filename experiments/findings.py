"""The differences that each experiment's JSON holds, with the uncertainty of items, seeds and choices.

Every function takes the JSON of one experiment and returns its differences by name. The results page corrects for all
of them together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from experiments.dense.run import BEST, CORE, LAST, SPATIAL
from experiments.differences import Gap, to_gap
from experiments.distillation.run import ALONE, TAUGHT
from experiments.language.run import BOXES, CAPTIONS, QUESTIONS
from experiments.outcomes import PHOTOS
from experiments.recipe.run import POINTS
from experiments.reproduction import ROBUST, find_rows, over_seeds
from experiments.spatial.alignments import CORE as UNALIGNED
from experiments.video.run import ARMS, COMPARED

Result = Mapping[str, Any]
Gaps = dict[tuple[str, ...], Gap]
GAINS = "gains"
WHEN = ("before", "after")
UNITS = {QUESTIONS: "%", BOXES: "%", CAPTIONS: ""}


def recipe_gaps(result: Result) -> Gaps:
    """Return the differences between points of the recipe: keys are both points and the score."""
    gaps: Gaps = {}
    for row in result["differences"]:
        before, after, name = row["before"], row["after"], row["name"]
        by_seed = find_rows(result["differences"], before=before, after=after, name=name)
        scores = {step: find_rows(result["scores"], step=step, name=name) for step in POINTS}
        gaps[str(before), str(after), name] = over_seeds(by_seed, scores[after], scores[before], list(scores.values()))
    return gaps


def distillation_gaps(result: Result) -> Gaps:
    """Return how much better the distilled students are, by score."""
    gaps: Gaps = {}
    for name in (PHOTOS, ROBUST):
        alone, taught = (find_rows(result["scores"], role=role, name=name) for role in (ALONE, TAUGHT))
        gaps[name,] = over_seeds(find_rows(result["differences"], name=name), taught, alone, (alone, taught))
    return gaps


def layer_gaps(result: Result) -> Gaps:
    """Return how much better the best layer is than the output, by task and trained model."""
    trained = {model["name"] for model in result["models"] if model["baseline"] is not None}
    gaps: Gaps = {}
    for row in result["curves"]:
        if row["model"] in trained:
            kinds = [seeds for other in result["curves"] if other["task"] == row["task"] for seeds in other["by_seed"]]
            best, output = (row["by_seed"][row["layers"].index(layer)] for layer in (row["best"], row["layers"][-1]))
            difference = {**row["gap"], "unit": row["unit"], "blocks": row["blocks"]}
            gaps[row["task"], row["model"]] = to_gap(difference, best, output, kinds, len(row["layers"]) - 1)
    return gaps


def language_gaps(result: Result) -> Gaps:
    """Return all differences, by row of the table (or `GAINS`, or `WHEN` of a curve) and metric."""
    by_row = {
        row["name"]: {metric: score["by_seed"] for metric, score in row["scores"].items()} for row in result["table"]
    }
    kinds = {metric: [scores[metric] for scores in by_row.values()] for metric in (QUESTIONS, BOXES)}
    gaps: Gaps = {}
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


def spatial_gaps(result: Result) -> Gaps:
    """Return how much better the last layer is, by task, encoder and the layer of Core that it is compared with."""
    curves = {(row["task"], row["model"]): row for row in result["curves"]}
    gaps: Gaps = {}
    for row in result["differences"]:
        task, aligned, core = row["task"], curves[row["task"], row["model"]], curves[row["task"], UNALIGNED]
        kinds = [seeds for (name, _), curve in curves.items() if name == task for seeds in curve["by_seed"]]
        theirs = core["by_seed"][core["layers"].index(row["layer"])]
        gaps[task, row["model"], row["against"]] = to_gap(row, aligned["by_seed"][-1], theirs, kinds)
    return gaps


def dense_gaps(result: Result) -> Gaps:
    """Return how much better the last layer of the Spatial model is, by task and what it is compared with."""
    scores = dense_scores(result)
    gaps: Gaps = {}
    for row in result["differences"]:
        task = row["task"]
        kinds = [seeds for curve in result["curves"] if curve["task"] == task for seeds in curve["by_seed"]]
        ours, theirs = (scores[task][name]["by_seed"] for name in (SPATIAL, row["against"]))
        gaps[task, row["against"]] = to_gap(row, ours, theirs, kinds)
    return gaps


def dense_scores(result: Result) -> dict[str, dict[str, dict[str, Any]]]:
    """Return by task, and by what is compared, a score with its layer, interval, seeds, metric and unit."""
    tasks: dict[str, dict[str, dict[str, Any]]] = {}
    for row in result["curves"]:
        layers = {CORE: {LAST: row["layers"][-1], BEST: row["best"]}}.get(row["model"], {row["model"]: row["best"]})
        for name, layer in layers.items():
            at = row["layers"].index(layer)
            score = {"layer": layer, "value": row["values"][at]}
            score |= {"interval": row["interval"][at], "by_seed": row["by_seed"][at]}
            score |= {key: row[key] for key in ("metric", "unit", "lower_is_better")}
            tasks.setdefault(row["task"], {})[name] = score
    return tasks


def video_gaps(result: Result) -> Gaps:
    """Return the differences by metric and pair of captions; the model that was not finetuned has no seeds."""
    growth = {row["name"]: [score["by_seed"] for score in row["values"][1:-1]] for row in result["growth"]}
    gaps: Gaps = {}
    for row in result["table"]:
        by_arm = {arm: row["scores"][arm]["by_seed"] for arm in ARMS}
        kinds = [*by_arm.values(), *growth[row["name"]]]
        for ours, theirs in COMPARED:
            pair = f"{ours} − {theirs}"
            difference = row["differences"][pair]
            gap = to_gap(difference, by_arm[ours], by_arm.get(theirs, ()), kinds, unit=row["unit"])
            gaps[row["name"], pair] = gap
    return gaps


GAPS: dict[str, Callable[[Result], Gaps]] = {
    "recipe": recipe_gaps,
    "distillation": distillation_gaps,
    "layers": layer_gaps,
    "language": language_gaps,
    "spatial": spatial_gaps,
    "dense": dense_gaps,
    "video": video_gaps,
}
"""By the name of the experiment, which is that of its JSON."""


def all_gaps(results: Mapping[str, Result]) -> dict[tuple[str, ...], Gap]:
    """Return the differences of several experiments: keys begin with the experiment's name."""
    return {(name, *key): gap for name, result in results.items() for key, gap in GAPS[name](result).items()}
