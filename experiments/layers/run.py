"""Repeat section 3 in small: evaluate the layers of the built-in model and of the ends of the recipe in small.

They are compared with the built-in model's random weights, and in tracking with colours alone. Each model was trained
with one seed, so nothing follows for depth, pooling, the recipe or longer training: figures 9 and 11 need towers of
several seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from experiments.differences import gain
from experiments.layers.evaluation import Model, evaluate_model, unpack
from experiments.layers.tasks import LayerData, Sizes, make_layer_tasks
from experiments.reproduction import side_by_side
from perception_encoder.errors import DataError
from perception_encoder.evaluation.statistics.bootstrap import Interval
from perception_encoder.files import write_json
from perception_encoder.layer_analysis.sweep import COLOURS, LayerCurve
from perception_encoder.models.registry import RANDOM
from perception_encoder.progress import Track, untracked

BUILTIN, FIRST, LAST = "built-in", "step 1", "steps 1–9"
TOWER_FILES = {FIRST: "nano_step1.safetensors", LAST: "nano_step9.safetensors"}
"""Towers that `python -m experiments.recipe` writes."""
UNTRAINED = "random weights"
NORMED = "built-in, final norm"
DIGITS = 5


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

    `towers`: the directory of the towers of the recipe in small. Raises DataError if data or a tower are missing,
    before anything is evaluated, and what `evaluate_model` does.
    """
    sizes = sizes or Sizes()
    for name, file in TOWER_FILES.items():
        if not (towers / file).is_file():
            raise DataError(f"the tower of {name} is missing: {towers / file}; run python -m experiments.recipe")
    make_layer_tasks(data, sizes)  # raises
    models = list_models(towers)
    results = _evaluate(models, data, sizes, runs, track, jobs)
    curves = {model.name: unpack(model.name, results[model.name]) for model in models}
    about = ("weights", "image_size", "depth", "seconds", "images", "failures")
    value = {
        "sizes": asdict(sizes),
        "models": [
            {"name": item.name, "baseline": item.baseline, **{name: results[item.name][name] for name in about}}
            for item in models
        ],
        "curves": curve_rows(curves, {entry.name: entry.baseline for entry in models}),
    }
    write_json(result, value, indent=1)
    return value


def list_models(towers: Path) -> list[Model]:
    """Return all models that are evaluated, baselines last."""
    ends = {name: str(towers / file) for name, file in TOWER_FILES.items()}
    return [
        Model(name=FIRST, source=ends[FIRST], baseline=UNTRAINED),
        Model(name=LAST, source=ends[LAST], baseline=UNTRAINED),
        Model(name=BUILTIN, source="builtin", baseline=UNTRAINED),
        Model(name=NORMED, source="builtin", final_norm=True),
        Model(name=UNTRAINED, source=RANDOM + "builtin"),
        Model(name=COLOURS, source=COLOURS),
    ]


def _evaluate(
    models: Sequence[Model], data: LayerData, sizes: Sizes, runs: Path, track: Track, jobs: int
) -> dict[str, dict[str, Any]]:
    """Return the results of all models, by name."""
    if jobs == 1:
        return {model.name: evaluate_model(model, data, sizes, runs, track) for model in models}
    results = side_by_side(evaluate_model, {item.name: (item, data, sizes, runs) for item in models}, jobs)
    return dict(track(results, "evaluating models", len(models)))


def curve_rows(
    curves: Mapping[str, Mapping[str, LayerCurve]], baselines: Mapping[str, str | None]
) -> list[dict[str, Any]]:
    """Return every curve: its scores, how much better its best layer is than its last, and the baseline's best.

    `curves`: by model and task. `baselines`: by model, the one with random weights; None for a baseline.
    """
    rows = []
    for model, by_task in curves.items():
        for task, curve in by_task.items():
            scores = list(curve.scores.values())
            row = {
                "model": model,
                "task": task,
                **{name: getattr(curve, name) for name in ("metric", "unit", "lower_is_better", "depth")},
                "items": scores[0].n,
                "blocks": scores[0].blocks,
                "head_seeds": len(scores[0].by_seed),
                "layers": list(curve.scores),
                "values": [round(score.value, DIGITS) for score in scores],
                "interval": [_ends(score.bounds()) for score in scores],
                "by_seed": [[round(value, DIGITS) for value in score.by_seed] for score in scores],
                "best": curve.best,
                "gap": gain(curve.scores[curve.best], curve.scores[curve.last]),
            }
            baseline = curves.get(baselines.get(model) or "", {}).get(task)
            if baseline is not None:
                row["random_best"] = round(baseline.scores[baseline.best].value, DIGITS)
            rows.append(row)
    return rows


def _ends(interval: Interval) -> list[float] | None:
    """Return the ends of an interval, rounded; None without one."""
    return None if interval is None else [round(end, DIGITS) for end in interval]
