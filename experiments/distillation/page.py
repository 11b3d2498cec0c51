"""The result of `python -m experiments.distillation` as a page."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from experiments.differences import describe_correction, find_signs
from experiments.distillation.run import ALONE, SEEDS, TAUGHT, TEACHER
from experiments.outcomes import PHOTOS
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
from perception_encoder.evaluation.report import Table

DIFFERENCE = "taught − alone"


def page(result: dict[str, Any]) -> str:
    """Return the page in Markdown: one paragraph and one table."""
    runs: Rows = list(result["runs"].values())
    scale = next(run["config"]["teacher_logit_scale"] for run in runs if run["role"] == TAUGHT)
    text = (
        "Written by `python -m experiments.distillation`: a student of the size of the built-in model learns from "
        "pairs alone, or from the same pairs in the same order and a larger teacher that we trained on the same data "
        f"(section 2.4; the teacher's logit scale is {scale:g}, twice the one that it learned, and the contrastive "
        f"loss is added). {_verdict(result)} {earlier_procedure(runs)}"
        f"*{PHOTOS}* is the mean class accuracy on the test photographs, "
        f"zero-shot, averaged over the tasks; *{ROBUST}* the average over test sets unlike the training data: "
        "photographs changed in five ways, and drawings in a style that is never trained on, by their names. Percent ± "
        "half the width of the 95 % interval over images, differences in points; only the interval of all seeds "
        f"includes the seeds of training. {describe_correction(2)} Minutes are those of training, with the teacher's "
        "own computations."
    )
    table = _table(runs, result["scores"], result["differences"]).markdown()
    return "\n".join(["# Distillation in small", "", *wrap(text, 118, break_on_hyphens=False), "", table])


def _verdict(result: dict[str, Any]) -> str:
    """Return whether the run can show anything about distillation: only if the teacher is better than its student."""
    scores, better = [], []
    for name in (PHOTOS, ROBUST):
        (teacher,) = find_rows(result["scores"], role=TEACHER, name=name)
        alone = find_rows(result["scores"], role=ALONE, name=name)
        mean = sum(each["value"] for each in alone) / len(alone)
        scores.append(f"{100 * teacher['value']:.1f} against {100 * mean:.1f} on {name}")
        better.append(teacher["interval"][0] > max(each["interval"][1] for each in alone))
    comparison = " and ".join(scores)
    if any(better):
        return f"The teacher scores higher (one training seed) than the student alone ({comparison})."
    return (
        "**This run shows nothing about distillation from a better teacher: its teacher is not shown to be better than "
        f"the student** (teacher against student alone: {comparison})."
    )


def _table(runs: Rows, scores: Rows, differences: Rows) -> Table:
    rows = []
    for role in (TEACHER, ALONE, TAUGHT):
        own = [run for run in runs if run["role"] == role]
        minutes = sum(run["seconds"] for run in own) / len(own) / 60
        for name in (PHOTOS, ROBUST):
            by_seed = find_rows(scores, role=role, name=name)
            cells = [percent(each) for each in by_seed] + ["–"] * (len(SEEDS) - len(by_seed))
            mean = f"{100 * sum(each['value'] for each in by_seed) / len(by_seed):.1f}"
            rows.append((role, f"{own[0]['samples']:,}", f"{minutes:.0f}", name, *cells, mean))
    gaps = {}
    for name in (PHOTOS, ROBUST):
        alone, taught = (find_rows(scores, role=role, name=name) for role in (ALONE, TAUGHT))
        gaps[name] = over_seeds(find_rows(differences, name=name), taught, alone, (alone, taught))
    signs = find_signs(gaps)
    for name, gap in gaps.items():
        cells = [*map(points, find_rows(differences, name=name)), points_over_seeds(gap, signs[name])]
        rows.append((DIFFERENCE, "", "", name, *cells))
    columns = ("run", "pairs", "minutes", "score", *(f"seed {seed}" for seed in SEEDS), "all seeds")
    return Table(columns, tuple(rows))
