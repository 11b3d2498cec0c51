"""The result of `python -m experiments.distillation` as a page."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

from experiments.distillation.run import ALONE, SEEDS, TAUGHT, TEACHER
from experiments.outcomes import PHOTOS
from experiments.reproduction import (
    ROBUST,
    Figures,
    claim,
    earlier_procedure,
    over_seeds,
    percent,
    points,
)
from perception_encoder.evaluation.report import Table

DIFFERENCE = "taught − alone"


def page(result: dict[str, Any]) -> str:
    """The page in Markdown: one paragraph and one table."""
    runs: Figures = list(result["runs"].values())
    scale = next(run["config"]["teacher_logit_scale"] for run in runs if run["role"] == TAUGHT)
    text = (
        "Written by `python -m experiments.distillation`: a student of the size of the built-in model learns from "
        "pairs alone, or from the same pairs in the same order with a larger teacher that was trained at home on the "
        "same data "
        f"(section 2.4; the teacher's logit scale is {scale:g}, twice the one that it learned, and the contrastive "
        f"loss stands beside). {_verdict(result)} {earlier_procedure(runs)}"
        f"*{PHOTOS}* is the mean class accuracy on the test photographs, "
        f"zero-shot, averaged over the tasks; *{ROBUST}* the average over test sets unlike training: the photographs "
        "changed in five ways, and drawings in a style that is never trained on, by their names. Percent ± half the "
        "width of the 95 % interval over images, differences in points; the interval of all seeds includes the seeds "
        "of training, and only one that excludes zero is a claim, in bold. Minutes are of training, the teacher's own "
        "work included."
    )
    table = _table(runs, result["figures"], result["differences"]).markdown()
    return "\n".join(["# Distillation in small", "", *wrap(text, 118, break_on_hyphens=False), "", table])


def _verdict(result: dict[str, Any]) -> str:
    """Whether the run can say anything of distillation: only where the teacher knows more than its student."""
    values: dict[tuple[str, str], list[Any]] = {}
    for figure in result["figures"]:
        values.setdefault((figure["role"], figure["name"]), []).append(figure)
    shown, better = [], []
    for name in (PHOTOS, ROBUST):
        (teacher,), alone = values[TEACHER, name], values[ALONE, name]
        mean = sum(each["value"] for each in alone) / len(alone)
        shown.append(f"{100 * teacher['value']:.1f} against {100 * mean:.1f} on {name}")
        better.append(teacher["ci"][0] > max(each["ci"][1] for each in alone))
    told = " and ".join(shown)
    if any(better):
        return f"The teacher scores higher (one training seed) than the student alone ({told})."
    return (
        "**This run shows nothing of distillation from a better teacher: its teacher is not shown to be better than "
        f"the student** (teacher against student alone: {told})."
    )


def _table(runs: Figures, figures: Figures, differences: Figures) -> Table:
    rows = []
    for role in (TEACHER, ALONE, TAUGHT):
        own = [run for run in runs if run["role"] == role]
        minutes = sum(run["seconds"] for run in own) / len(own) / 60
        for name in (PHOTOS, ROBUST):
            found = [f for f in figures if (f["role"], f["name"]) == (role, name)]
            cells = [percent(f) for f in found] + ["–"] * (len(SEEDS) - len(found))
            mean = f"{100 * sum(f['value'] for f in found) / len(found):.1f}"
            rows.append((role, f"{own[0]['samples']:,}", f"{minutes:.0f}", name, *cells, mean))
    for name in (PHOTOS, ROBUST):
        found = [d for d in differences if d["name"] == name]
        by_seed = [[f["value"] for f in figures if (f["role"], f["name"]) == (role, name)] for role in (ALONE, TAUGHT)]
        whole = points(over_seeds(found, by_seed))
        whole = whole if claim(found, by_seed) == "none" else f"**{whole}**"
        rows.append((DIFFERENCE, "", "", name, *map(points, found), whole))
    columns = ("run", "pairs", "minutes", "figure", *(f"seed {seed}" for seed in SEEDS), "all seeds")
    return Table(columns, tuple(rows))
