"""The results in the built-in model's card, next to its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from statistics import NormalDist

from experiments.differences import Gap, find_signs
from perception_encoder.errors import DataError
from perception_encoder.evaluation.results import Result
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.models.registry import BUILTIN
from synthetic import report

TARGETS = {
    "caltech101": 0.55,
    "caltech101/unseen": 0.20,
    "clothing": 0.58,
    "grocery": 0.60,
    "grocery/coarse": 0.66,
    "flowers": 0.82,
    "openmoji": 0.40,
}
"""Mean class accuracy, and for drawings the share found by their names."""
NOTE = """\
Targets were set for this model and are compared with the better of the two transforms: ✓ if it is reached, ✗ if it is
missed, "open" if the test images do not show either after Holm's correction for the seven targets and for the choice of
a transform. The model has one training seed.
"""
MARKS = {1: "✓", -1: "✗", 0: "open"}
CARD_MARKERS = ("<!-- figures -->", "<!-- end of figures -->")
"""The lines of a model card between which its results stand."""


def update_card(card: str, result: Result) -> str:
    """Return a model card with up-to-date results.

    Raises DataError if it lacks the lines for them, or if the result is of another model or split.
    """
    start, end = CARD_MARKERS
    before, started, rest = card.partition(start + "\n")
    _, ended, after = rest.partition(end + "\n")
    if not started or not ended:
        raise DataError(f"the card needs the lines {start} and {end}, with the results between them")
    return f"{before}{start}\n\n{report.summary(result, compare_with_targets(result))}\n{NOTE}\n{end}\n{after}"


def compare_with_targets(result: Result) -> tuple[report.Table, report.Table]:
    """Return the tables of classification and of retrieval with a column of targets, each at its task's first row."""
    if result.model != BUILTIN or result.split != "test":
        raise DataError(f"targets are for {BUILTIN} on test, not for {result.model} on {result.split}")
    prompts, metrics = report.first_prompts(result), dict[str, list[Score]]()
    for key, scores in groupby(result.scores, lambda score: score.key):
        task, method, _, of = key
        if method == "retrieval" or (method == "zero-shot" and of == prompts):
            metrics.setdefault(task, []).append(next(scores))
    gaps = {task: _to_target(metrics[task], target) for task, target in TARGETS.items() if task in metrics}
    signs = find_signs(gaps)
    cells = {task: f"{100 * TARGETS[task]:.0f} {MARKS[sign]}" for task, sign in signs.items()}
    classification, retrieval = report.classification_table(result), report.retrieval_table(result)
    return _add_targets(classification, cells), _add_targets(retrieval, cells)


def _to_target(metrics: Sequence[Score], target: float) -> Gap:
    """Return how far the best of several results is above its target."""
    best = max(metrics, key=lambda metric: metric.value)
    gap = Gap(value=best.value - target, unit="%", choices=len(metrics))
    if best.interval is None:
        return gap
    error = (best.interval[1] - best.interval[0]) / (2 * NormalDist().inv_cdf(0.975))
    return replace(gap, parts=((error**2, best.n - 1),))


def _add_targets(table: report.Table, cells: Mapping[str, str]) -> report.Table:
    rows, seen = [], set[str]()
    for row in table.rows:
        rows.append((*row, "–" if row[0] in seen else cells.get(row[0], "–")))
        seen.add(row[0])
    return report.Table((*table.columns, "target"), tuple(rows))
