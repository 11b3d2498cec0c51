"""Write the weights of a run's best validated step beside its last ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perception_encoder.files import replacing, writing
from perception_encoder.train.checkpoint import find_checkpoints
from perception_encoder.train.config import TrainingConfig

BEST = "best.safetensors"


def write_best(
    weights: Path, config: TrainingConfig, metric: str, write_step: Callable[[int, Path], None]
) -> dict[str, Any]:
    """Write `best.safetensors` beside a finished run's `weights`; return what its record says of the step.

    `write_step`: writes the weights of a checkpoint's step. Nothing is written for a run without validation, or none
    of whose scores was a number.
    """
    out = weights.parent
    if config.validation is None:
        return {}
    _, newest = find_checkpoints(out)[0]
    if newest.best_step is None:
        return {}
    if newest.best_step == config.steps:
        with writing(out / BEST), replacing(out / BEST) as temporary:
            shutil.copyfile(weights, temporary)
    else:
        write_step(newest.best_step, out / BEST)
    return {"best": {"step": newest.best_step, metric: newest.best}}
