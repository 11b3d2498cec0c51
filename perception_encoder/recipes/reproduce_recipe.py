"""Section 2.1 in small: what the nine steps add, at the size of the built-in model and with equal FLOPs.

A run that the result already has is not run again: its key is the hash of its configuration. Figures are made anew
from which test pictures each run got right, so that differences are paired, picture by picture.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_encoder.data.progress import Track, untracked
from perception_encoder.evaluation.outcomes import PHOTOS, HeldOut, Outcomes
from perception_encoder.evaluation.paired import Outcome, average, difference
from perception_encoder.evaluation.report import read_text, write_text
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.clip import CLIP
from perception_encoder.models.weights import load_model, write_checkpoint
from perception_encoder.pretraining.run import PretrainingConfig, pretrain
from perception_encoder.recipes.nano_steps import nano_step
from perception_encoder.train.metrics import Listener

POINTS, SEEDS = (1, 5, 7, 9), (0, 1)
ROBUST = "robustness"


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folders and files of a reproduction."""

    photos: Path
    drawings: Path
    runs: Path
    """Each run has a folder in it, with its checkpoints and metrics."""
    result: Path
    """The JSON; the vision towers of the first and the last point are kept in a folder `towers` beside it."""


def reproduce_recipe(
    place: Place,
    recipe: Callable[[int, int], PretrainingConfig] = nano_step,
    track: Track = untracked,
    listener: Listener | None = None,
) -> dict[str, Any]:
    """Run what the result lacks, write it after each run, and return it whole.

    `recipe(step, seed)` gives a run's configuration. Raises what `pretrain` and `HeldOut` do.
    """
    result: dict[str, Any] = json.loads(read_text(place.result)) if place.result.exists() else {"runs": {}}
    held_out = HeldOut(place.photos, place.drawings)
    order = [(step, seed) for seed in SEEDS for step in (POINTS[0], *POINTS[:0:-1])]  # the ends first
    planned = {recipe(step, seed).fingerprint(): (step, seed) for step, seed in order}
    result["runs"] = {key: run for key, run in result["runs"].items() if key in planned}
    for key, (step, seed) in planned.items():
        if key not in result["runs"]:
            config, start = recipe(step, seed), time.perf_counter()
            path = pretrain(config, [place.photos, place.drawings], place.runs / key, track, listener)
            about = {"step": step, "seed": seed, "samples": config.samples, "seconds": time.perf_counter() - start}
            model = load_model(path)
            assert isinstance(model, CLIP)
            if seed == SEEDS[0] and step in (POINTS[0], POINTS[-1]):
                tower = place.result.parent / "towers" / f"nano_step{step}.safetensors"
                write_checkpoint(model.visual, tower, half=True)
            right = held_out.measure(Encoder(model, dtype=torch.float32), track)
            result["runs"][key] = about | {"config": asdict(config), "right": held_out.pack(right)}
            write_text(place.result, json.dumps(result, indent=1) + "\n")
    outcomes = {(run["step"], run["seed"]): held_out.unpack(run["right"]) for run in result["runs"].values()}
    text = json.dumps(result | compare(outcomes), indent=1) + "\n"
    write_text(place.result, text)
    whole: dict[str, Any] = json.loads(text)
    return whole


def compare(outcomes: dict[tuple[int, int], Outcomes]) -> dict[str, Any]:
    """Averages of each run, given by step and seed, and how each point differs from the one before and from the first.

    "figures": step, seed, set, value, ci; "differences": before, after, seed, set, value, ci. The set `ROBUST` is the
    mean over all sets but `PHOTOS`.
    """
    generator = np.random.default_rng(0)
    figures = [
        {"step": step, "seed": seed, **asdict(average(name, sets, generator))}
        for (step, seed), found in sorted(outcomes.items())
        for name, sets in _sets(found).items()
    ]
    pairs = [*pairwise(POINTS), (POINTS[0], POINTS[-1])]
    differences = []
    for before, after in pairs:
        for seed in SEEDS:
            theirs, ours = _sets(outcomes[before, seed]), _sets(outcomes[after, seed])
            for name in (PHOTOS, ROBUST):
                found = asdict(difference(name, ours[name], theirs[name], generator))
                differences.append({"before": before, "after": after, "seed": seed, **found})
    return {"figures": figures, "differences": differences}


def _sets(outcomes: Outcomes) -> dict[str, list[list[Outcome]]]:
    """Each set by itself, and the unlike ones together."""
    unlike = [found for name, found in outcomes.items() if name != PHOTOS]
    return {name: [found] for name, found in outcomes.items()} | {ROBUST: unlike}
