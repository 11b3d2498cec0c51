"""Figure 8 in small (section 3): each task over the layers of the built-in model and of the recipe in small's ends.

Beside them stand the built-in model's random weights, and for tracking colours alone. Each model was trained with one
seed, so nothing is said of what depth, pooling, the recipe or longer training do: figures 9 and 11 need towers
of several seeds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.layers.findings import curve_rows
from experiments.layers.subjects import LayerData, Sizes, Subject, examine, make_questions, unpack
from experiments.reproduction import side_by_side
from perception_encoder.errors import DataError
from perception_encoder.evaluation.report import write_text
from perception_encoder.layer_analysis.colour_encoder import COLOURS
from perception_encoder.models.external.layer_encoders import RANDOM
from perception_encoder.progress import Track, untracked

BUILTIN, FIRST, LAST = "built-in", "step 1", "steps 1–9"
KEPT = {FIRST: "nano_step1.safetensors", LAST: "nano_step9.safetensors"}
"""Towers that `python -m experiments.recipe` writes."""
UNTRAINED = "random weights"
NORMED = "built-in, final norm"


def reproduce_layers(
    result: Path,
    runs: Path,
    data: LayerData,
    towers: Path,
    sizes: Sizes | None = None,
    track: Track = untracked,
    jobs: int = 1,
) -> dict[str, Any]:
    """Evaluate what is not cached in `runs`, write the whole result as JSON, and return it.

    `towers`: the directory of the towers of the recipe in small. Raises DataError where data or a tower are
    missing, before anything is evaluated, and what `examine` does.
    """
    sizes = sizes or Sizes()
    for name, file in KEPT.items():
        if not (towers / file).is_file():
            raise DataError(f"the tower of {name} is missing: {towers / file}; run python -m experiments.recipe")
    make_questions(data, sizes)  # raises
    subjects = list_subjects(towers)
    answers = _ask(subjects, data, sizes, runs, track, jobs)
    curves = {subject.name: unpack(subject.name, answers[subject.name]) for subject in subjects}
    found = {
        "sizes": asdict(sizes),
        "models": [_describe(each, answers[each.name]) for each in subjects],
        "curves": curve_rows(curves, {each.name: each.beside for each in subjects}),
    }
    write_text(result, json.dumps(found, indent=1) + "\n")
    return found


def list_subjects(towers: Path) -> list[Subject]:
    """All that are evaluated, baselines behind."""
    ends = {name: str(towers / file) for name, file in KEPT.items()}
    return [
        Subject(name=FIRST, place=ends[FIRST], beside=UNTRAINED),
        Subject(name=LAST, place=ends[LAST], beside=UNTRAINED),
        Subject(name=BUILTIN, place="builtin", beside=UNTRAINED),
        Subject(name=NORMED, place="builtin", final_norm=True),
        Subject(name=UNTRAINED, place=RANDOM + "builtin"),
        Subject(name=COLOURS, place=COLOURS),
    ]


def _ask(
    subjects: Sequence[Subject], data: LayerData, sizes: Sizes, runs: Path, track: Track, jobs: int
) -> dict[str, dict[str, Any]]:
    """The answers of all, by their names."""
    if jobs == 1:
        return {each.name: examine(each, data, sizes, runs, track) for each in subjects}
    answers = side_by_side(examine, {each.name: (each, data, sizes, runs) for each in subjects}, jobs)
    return dict(track(answers, "models asked", len(subjects)))


def _describe(subject: Subject, answer: Mapping[str, Any]) -> dict[str, Any]:
    kept = {name: answer[name] for name in ("weights", "image_size", "depth", "seconds", "pictures", "failures")}
    return {"name": subject.name, "beside": subject.beside, **kept}
