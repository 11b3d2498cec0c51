"""Section 2.1 in small: what the nine steps add, at the size of the built-in model and with equal FLOPs.

Scores are computed from the test images that each run got right, so that differences are paired, image by image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from experiments.outcomes import PHOTOS, Outcomes, average_row, difference_row
from experiments.recipe.steps import nano_step
from experiments.reproduction import ROBUST, Paths, Run, Runs, averaged
from perception_encoder.models.checkpoints.weights import load_model, write_checkpoint
from perception_encoder.models.clip import CLIP
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.training.metrics import Listener

POINTS, SEEDS = (1, 5, 7, 9), (0, 1)


def reproduce_recipe(
    paths: Paths,
    recipe: Callable[[int, int], PretrainingConfig] = nano_step,
    towers: Path | None = None,
    track: Track = untracked,
    listener: Listener | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Run what the result lacks, and return it whole; `recipe(step, seed)` gives a run's configuration.

    The vision towers of the first and the last point are written to `towers`, by default next to the result. Raises
    what `pretrain` and `HeldOut` do.
    """
    planned = []
    for seed in SEEDS:
        for step in (POINTS[0], *POINTS[:0:-1]):  # the ends first
            config = recipe(step, seed)
            about = {"step": step, "seed": seed}
            planned.append(Run(about=about, config=config, train=pretrain, key=config.fingerprint()))
    runs = Runs(paths, track, listener, jobs)
    for run, path in zip(planned, runs.add(*planned), strict=True):
        step, seed = run.about["step"], run.about["seed"]
        tower = (towers or paths.result.parent / "towers") / f"nano_step{step}.safetensors"
        if seed == SEEDS[0] and step in (POINTS[0], POINTS[-1]) and path.exists() and not tower.exists():
            model = load_model(path)
            assert isinstance(model, CLIP)
            write_checkpoint(model.visual, tower, half=True)
    return runs.finish(compare(runs.outcomes("step", "seed")))


def compare(outcomes: Mapping[tuple[int, int], Outcomes]) -> dict[str, Any]:
    """Averages of each run, given by step and seed, and how each point differs from the one before and from the first.

    "scores": step, seed, name, value, n, interval; "differences": before, after, seed, name, value, n, interval.
    """
    scores = [
        {"step": step, "seed": seed, **average_row(name, sets)}
        for (step, seed), outcome in sorted(outcomes.items())
        for name, sets in averaged(outcome).items()
    ]
    differences = []
    for before, after in [*pairwise(POINTS), (POINTS[0], POINTS[-1])]:
        for seed in SEEDS:
            theirs, ours = averaged(outcomes[before, seed]), averaged(outcomes[after, seed])
            for name in (PHOTOS, ROBUST):
                row = difference_row(name, ours[name], theirs[name])
                differences.append({"before": before, "after": after, "seed": seed, **row})
    return {"scores": scores, "differences": differences}
