"""Section 2.4 in small: the built-in model's student with a larger teacher trained at home, and without, three seeds.

Both students see the same pairs, in the same order, for the same number of steps; the one that is taught has the
distillation beside the contrastive loss. A run that the result already has is not run again: its key is the hash of its
configuration, a student's with the teacher's key for the teacher.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from perception_encoder.data.pairs import Stage
from perception_encoder.data.progress import Track, untracked
from perception_encoder.evaluation.outcomes import PHOTOS, HeldOut, Outcomes
from perception_encoder.evaluation.paired import Outcome, average, difference
from perception_encoder.evaluation.report import read_text, write_text
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import BUILTIN
from perception_encoder.models.weights import load_model
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.pretraining.run import PretrainingConfig, pretrain
from perception_encoder.recipes.builtin import WEIGHTS
from perception_encoder.recipes.distillation import DistillationConfig, distill
from perception_encoder.recipes.reproduce_recipe import ROBUST, Place
from perception_encoder.train.metrics import Listener
from perception_encoder.train.optimizer import OptimizerConfig

SEEDS = (0, 1, 2)
TEACHER, ALONE, TAUGHT = "teacher", "alone", "taught"


def home_teacher() -> PretrainingConfig:
    """A teacher of 23 million parameters in its vision tower, PE-Core-S's: an hour on two slow cores, 409,600 pairs.

    Its text tower is the built-in model's: that of PE-Core-S would take more than half of the time.
    """
    return PretrainingConfig(
        model="PE-Core-S16-384",
        text_tower=BUILTIN,
        stages=(Stage(image_size=48, steps=1000), Stage(image_size=64, steps=600)),
        weights=WEIGHTS,
        warmup=130,
        optimizer=OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        augmentation=Augmentation(scale=(0.25, 1.0)),
    )


def student(seed: int) -> PretrainingConfig:
    """The student by itself: 179,200 pairs."""
    stages = (Stage(image_size=48, steps=450), Stage(image_size=64, steps=250))
    return dataclasses.replace(home_teacher(), model=BUILTIN, text_tower=None, stages=stages, warmup=60, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The configurations of the experiment."""

    teacher: Callable[[], PretrainingConfig] = home_teacher
    student: Callable[[int], PretrainingConfig] = student

    def taught(self, seed: int, teacher: str, logit_scale: float) -> DistillationConfig:
        """The student with the distillation beside its own loss."""
        alone = self.student(seed)
        fields = {field.name: getattr(alone, field.name) for field in dataclasses.fields(alone)}
        return DistillationConfig(**fields, teacher=teacher, teacher_logit_scale=logit_scale, contrastive_weight=1.0)


def reproduce_distillation(
    place: Place, plan: Plan | None = None, track: Track = untracked, listener: Listener | None = None
) -> dict[str, Any]:
    """Run what the result lacks, write it after each run, and return it whole.

    The teacher's logit scale is twice the one that it learned, as the paper's is twice its teacher's 100. Raises what
    `pretrain` and `HeldOut` do.
    """
    plan, held_out = plan or Plan(), HeldOut(place.photos, place.drawings)
    runs = _Runs(place, held_out, track, listener)
    data = [place.photos, place.drawings]
    config = plan.teacher()
    path = runs.add(
        TEACHER, 0, config.fingerprint(), config, partial(pretrain, config, data, track=track, listener=listener)
    )
    model = load_model(path)
    assert isinstance(model, CLIP)
    scale = round(2 * model.logit_scale.exp().item(), 1)
    for seed in SEEDS:
        alone, taught = plan.student(seed), plan.taught(seed, str(path), scale)
        key = dataclasses.replace(taught, teacher=config.fingerprint()).fingerprint()
        runs.add(
            ALONE, seed, alone.fingerprint(), alone, partial(pretrain, alone, data, track=track, listener=listener)
        )
        runs.add(TAUGHT, seed, key, taught, partial(distill, taught, data, track=track, listener=listener))
    return runs.finish()


class _Runs:
    """The runs of a result, in its file."""

    def __init__(self, place: Place, held_out: HeldOut, track: Track, listener: Listener | None) -> None:
        self._place, self._held_out, self._track = place, held_out, track
        self._known = json.loads(read_text(place.result))["runs"] if place.result.exists() else {}
        self._used: dict[str, Any] = {}

    def add(self, role: str, seed: int, key: str, config: PretrainingConfig, train: Callable[[Path], Path]) -> Path:
        """Take a run from the file, or run it; returns its weights, which a teacher's run must still have."""
        path = self._place.runs / key / "model.safetensors"
        if key not in self._known or (role == TEACHER and not path.exists()):
            start = time.perf_counter()
            train(self._place.runs / key)
            model, about = load_model(path), {"role": role, "seed": seed, "samples": config.samples}
            about["seconds"] = round(time.perf_counter() - start)
            right = self._held_out.measure(Encoder(model, dtype=torch.float32), self._track)
            self._known[key] = about | {"config": dataclasses.asdict(config), "right": self._held_out.pack(right)}
            self._known[key]["config"].pop("teacher", None)  # a path of this machine; the key stands for it
            write_text(self._place.result, json.dumps({"runs": self._known}, indent=1) + "\n")
        self._used[key] = self._known[key]
        return path

    def finish(self) -> dict[str, Any]:
        """The result of these runs and no others, with what can be said of it, written."""
        outcomes = {(run["role"], run["seed"]): self._held_out.unpack(run["right"]) for run in self._used.values()}
        text = json.dumps({"runs": self._used, **compare(outcomes)}, indent=1) + "\n"
        write_text(self._place.result, text)
        result: dict[str, Any] = json.loads(text)
        return result


def compare(outcomes: dict[tuple[str, int], Outcomes]) -> dict[str, Any]:
    """Averages of each run, given by role and seed, and how the taught student differs from the one alone.

    "figures": role, seed, name, value, n, ci; "differences": seed, name, value, n, ci. The set `ROBUST` is the mean
    over all sets but `PHOTOS`.
    """
    generator = np.random.default_rng(0)
    figures = [
        {"role": role, "seed": seed, **dataclasses.asdict(average(name, sets, generator))}
        for (role, seed), found in outcomes.items()
        for name, sets in _sets(found).items()
    ]
    differences = [
        {"seed": seed, **dataclasses.asdict(difference(name, ours, _sets(outcomes[ALONE, seed])[name], generator))}
        for seed in SEEDS
        for name, ours in _sets(outcomes[TAUGHT, seed]).items()
    ]
    return {"figures": figures, "differences": differences}


def _sets(outcomes: Outcomes) -> dict[str, list[list[Outcome]]]:
    return {PHOTOS: [outcomes[PHOTOS]], ROBUST: [found for name, found in outcomes.items() if name != PHOTOS]}
