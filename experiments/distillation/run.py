"""Section 2.4 in small: the built-in model's student with a larger teacher trained at home, and without, three seeds.

Both students see the same pairs, in the same order, for the same number of steps; the one that is taught has the
distillation beside the contrastive loss. Images are not augmented, as in the paper's distillation; so the teacher
encodes each once a resolution. In the hash of a student's configuration, the teacher's key stands for it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from experiments.outcomes import PHOTOS, Outcome, Outcomes, average_row, difference_row
from experiments.reproduction import ROBUST, Paths, Run, Runs, averaged
from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import BUILTIN
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track, untracked
from perception_encoder.training.metrics import Listener
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.builtin.recipes import WEIGHTS

SEEDS = (0, 1, 2)
TEACHER, ALONE, TAUGHT = "teacher", "alone", "taught"
REMEMBERED = 500_000
"""Images and captions, a kilobyte each: more than a run sees."""


def home_teacher() -> PretrainingConfig:
    """A teacher of 23 million parameters in its vision tower, PE-Core-S's: an hour on two slow cores, 409,600 pairs.

    Its text tower is the built-in model's: that of PE-Core-S would take more than half of the time.
    """
    return PretrainingConfig(
        model="PE-Core-S16-384",
        text_tower=BUILTIN,
        stages=(ResolutionStage(image_size=48, steps=1000), ResolutionStage(image_size=64, steps=600)),
        weights=WEIGHTS,
        warmup=130,
        optimizer=OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        augmentation=None,
    )


def student(seed: int) -> PretrainingConfig:
    """The student by itself: 179,200 pairs."""
    stages = (ResolutionStage(image_size=48, steps=450), ResolutionStage(image_size=64, steps=250))
    return dataclasses.replace(home_teacher(), model=BUILTIN, text_tower=None, stages=stages, warmup=60, seed=seed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The configurations of the experiment."""

    teacher: Callable[[], PretrainingConfig] = home_teacher
    student: Callable[[int], PretrainingConfig] = student

    def taught(self, seed: int, teacher: str, logit_scale: float) -> PretrainingConfig:
        """Return the student with the distillation next to its own loss."""
        return dataclasses.replace(
            self.student(seed),
            teacher=teacher,
            teacher_logit_scale=logit_scale,
            contrastive_weight=1.0,
            remember=REMEMBERED,
        )


def reproduce_distillation(
    paths: Paths,
    plan: Plan | None = None,
    track: Track = untracked,
    listener: Listener | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Run what the result lacks, and return it whole.

    The teacher's logit scale is twice the one that it learned, as the paper's is twice its teacher's 100. Raises what
    `pretrain` and `HeldOut` do.
    """
    plan, runs = plan or Plan(), Runs(paths, track, listener, jobs)
    config = plan.teacher()
    key = config.fingerprint()
    teacher = Run(about={"role": TEACHER, "seed": 0}, config=config, train=pretrain, key=key, needed=True)
    students = {seed: plan.student(seed) for seed in SEEDS}
    alone = [
        Run(about={"role": ALONE, "seed": seed}, config=student, train=pretrain, key=student.fingerprint())
        for seed, student in students.items()
    ]
    path, *_ = runs.add(teacher, *alone)
    model = load_model(path)
    assert isinstance(model, CLIP)
    scale = round(2 * model.logit_scale.exp().item(), 1)
    taught = []
    for seed in SEEDS:
        config = plan.taught(seed, str(path), scale)
        fingerprint = dataclasses.replace(config, teacher=key).fingerprint()
        taught.append(Run(about={"role": TAUGHT, "seed": seed}, config=config, train=pretrain, key=fingerprint))
    runs.add(*taught)
    return runs.finish(compare(runs.outcomes("role", "seed")))


def compare(outcomes: dict[tuple[str, int], Outcomes]) -> dict[str, Any]:
    """Averages of each run, given by role and seed, and how the taught student differs from the one alone.

    "scores": role, seed, name, value, n, interval; "differences": seed, name, value, n, interval.
    """
    scores = [
        {"role": role, "seed": seed, **average_row(name, sets)}
        for (role, seed), outcome in outcomes.items()
        for name, sets in _both(outcome).items()
    ]
    differences = [
        {"seed": seed, **difference_row(name, ours, _both(outcomes[ALONE, seed])[name])}
        for seed in SEEDS
        for name, ours in _both(outcomes[TAUGHT, seed]).items()
    ]
    return {"scores": scores, "differences": differences}


def _both(outcomes: Outcomes) -> dict[str, list[list[Outcome]]]:
    sets = averaged(outcomes)
    return {name: sets[name] for name in (PHOTOS, ROBUST)}
