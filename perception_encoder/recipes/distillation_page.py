"""What `pe reproduce distillation` found, as a page."""

from __future__ import annotations

from typing import Any

from perception_encoder.evaluation.outcomes import PHOTOS
from perception_encoder.evaluation.report import Table
from perception_encoder.recipes.reproduce_distillation import ALONE, SEEDS, TAUGHT, TEACHER
from perception_encoder.recipes.reproduction import ROBUST, Figures, claim, percent, points


def page(result: dict[str, Any]) -> str:
    """The page in Markdown."""
    runs: Figures = list(result["runs"].values())
    scale = next(run["config"]["teacher_logit_scale"] for run in runs if run["role"] == TAUGHT)
    return "\n".join(
        [
            "# Distillation in small",
            "",
            "Written by `pe reproduce distillation`: a student of the size of the built-in model learns from pairs",
            "alone, or from the same pairs in the same order with a larger teacher that was trained at home on the",
            f"same data (section 2.4; the teacher's logit scale is {scale:g}, twice the one that it learned, and the",
            "contrastive loss stands beside). Percent ± half the width of the 95 % interval over pictures; a column",
            "for each seed.",
            "",
            f"*{PHOTOS}*: mean class accuracy on the test photographs, zero-shot, averaged over the tasks. *{ROBUST}*:",
            "the average over test sets unlike training: the photographs changed in five ways, and drawings in a style",
            "that is never trained on, by their names. Minutes are of training, the teacher's own work included.",
            "",
            _figure_table(runs, result["figures"]).markdown(),
            "Taught less alone, in points, paired over pictures. A difference is claimed only where the intervals of",
            "all seeds exclude zero on the same side.",
            "",
            _difference_table(result["differences"]).markdown(),
        ]
    )


def _figure_table(runs: Figures, figures: Figures) -> Table:
    rows = []
    for role in (TEACHER, ALONE, TAUGHT):
        own = [run for run in runs if run["role"] == role]
        minutes = sum(run["seconds"] for run in own) / len(own) / 60
        for name in (PHOTOS, ROBUST):
            found = [percent(f) for f in figures if (f["role"], f["name"]) == (role, name)]
            cells = found + ["–"] * (len(SEEDS) - len(found))
            rows.append((role, f"{own[0]['samples']:,}", f"{minutes:.0f}", name, *cells))
    return Table(("run", "pairs", "minutes", "figure", *(f"seed {seed}" for seed in SEEDS)), tuple(rows))


def _difference_table(differences: Figures) -> Table:
    rows = []
    for name in (PHOTOS, ROBUST):
        found = [d for d in differences if d["name"] == name]
        rows.append((name, *map(points, found), claim(found)))
    return Table(("figure", *(f"seed {seed}" for seed in SEEDS), "claim"), tuple(rows))
