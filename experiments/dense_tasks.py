"""The tasks of the experiments on dense prediction, read under the pages' names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from perception_encoder.errors import DataError
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from perception_encoder.layer_analysis.tasks import TaskOptions, make_task


def read_dense_tasks(
    tasks: Mapping[str, tuple[str, Path | None]], items: int, side: int, short_side: int
) -> list[LayerEvaluator]:
    """Read the data of tasks, by the page's name: that of `pe layers`, and a path; those without a path are left out.

    `items`, `short_side`: see `TaskOptions`; images are squashed to `side` pixels. DataError for what is missing.
    """
    options = TaskOptions(items=items, image_size=(side, side), short_side=short_side)
    evaluators = []
    for name, (kind, path) in tasks.items():
        if path is None:
            continue
        if not path.exists():
            raise DataError(f"{name}: {path} does not exist")
        evaluator = make_task(kind, path, options)
        evaluator.name = name
        evaluators.append(evaluator)
    return evaluators
