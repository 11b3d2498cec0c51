"""Distillation (section 2.4): the paper's students of PE-Core-G, and any teacher into the built-in model.

Here the run of section 2.1 and the task of section 2.4 meet: a distillation is a pretraining with another objective.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perception_encoder.data.pairs import Stage
from perception_encoder.data.streams import Shards
from perception_encoder.distillation.task import TEACHER_LOGIT_SCALE, DistillationTask
from perception_encoder.distillation.teacher import Teacher, load_teacher
from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.registry import BUILTIN, find_model
from perception_encoder.pretraining.cost import TeacherCost
from perception_encoder.pretraining.plan import Cluster, Plan, plan_pretraining
from perception_encoder.pretraining.recipes import MINUTES
from perception_encoder.pretraining.run import Objective, PretrainingConfig, pretrain
from perception_encoder.pretraining.towers import Towers
from perception_encoder.progress import Track, untracked
from perception_encoder.train.distributed import process_group
from perception_encoder.train.metrics import Listener
from perception_encoder.train.optimizer import OptimizerConfig

STUDENTS = {"l14": "PE-Core-L14-336", "b16": "PE-Core-B16-224", "s16": "PE-Core-S16-384", "t16": "PE-Core-T16-384"}


@dataclass(frozen=True, kw_only=True)
class DistillationConfig(PretrainingConfig):
    """All that decides a distillation's result, but the data itself: the run of the student, and its teacher."""

    teacher: str
    """Name, alias or path of a two-tower model."""
    teacher_logit_scale: float = TEACHER_LOGIT_SCALE
    """The paper's is twice the student's maximum; of a teacher whose own is below 100, twice its own is as sharp."""
    contrastive_weight: float = 0.0
    """Of the contrastive loss beside the distillation (the paper has none)."""
    remember: int = 0
    """Pictures and captions whose teacher's vectors are kept in memory (4 KiB each for PE-Core-L). A picture that is
    not augmented is then encoded by the teacher once in a run, whatever the number of steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masking is not None or self.frames is not None:
            raise ConfigError("a distillation is of whole pictures; leave masking and frames at null")


def distill(
    config: DistillationConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    teacher: Teacher | None = None,
) -> Path:
    """Run, or go on with, a distillation; returns the student's weights, as `pretrain` does.

    `teacher` stands for the one that `config` names: a model of another library, say. Pictures are made once, at the
    larger of the two models' sizes, and each model sees them scaled down to its own: both see the same crop, and one
    antialiased step more costs less than decoding twice.
    """
    with process_group():  # or every rank would load its teacher onto the first device
        teacher = teacher or load_teacher(config.teacher, config.remember)

        def make_task(towers: Towers) -> DistillationTask:
            size = towers.clip.visual.config.image_size
            return DistillationTask(towers, teacher, size, config.teacher_logit_scale, config.contrastive_weight)

        objective = Objective(
            make_task=make_task,
            picture_size=teacher.picture_size,
            identity=teacher.identity,
            teacher=_watched(config, teacher),
        )
        config = dataclasses.replace(config, image_side=max(config.image_side, teacher.picture_size))
        return pretrain(config, data, out, track, listener, objective)


def _watched(config: DistillationConfig, teacher: Teacher) -> TeacherCost | None:
    """The cost of a teacher that is a model of this package."""
    encoder = teacher.encoder
    if not isinstance(encoder, Encoder) or not isinstance(encoder.model, CLIP):
        return None
    cost = _teacher_cost(config, encoder.model.visual.config, encoder.model.text.config)
    cost.watch(encoder.model)
    return cost


def _teacher_cost(config: DistillationConfig, vision: VisionConfig, text: TextConfig) -> TeacherCost:
    """What is remembered is encoded once: half of `remember` are taken for pictures, half for captions, and all used.

    An augmented or mixed picture is another one each time.
    """
    once = min(1.0, config.remember / 2 / config.samples) if config.remember else 1.0
    same = config.augmentation is None and config.mixing is None
    return TeacherCost(vision, text, pictures=once if same else 1.0, captions=once)


def plan_distillation(config: DistillationConfig, cluster: Cluster) -> Plan:
    """The student's run and its teacher's passes, of the architecture that the teacher's name stands for.

    ConfigError for a teacher without a text tower.
    """
    entry = find_entry(config.teacher)
    if entry.text is None:
        raise ConfigError(f"the teacher is {config.teacher}, which has no text tower; take a Core model")
    cost = _teacher_cost(config, entry.vision, entry.text)
    assumed = f"the teacher encodes {cost.pictures:.0%} of the pairs' pictures and {cost.captions:.0%} of the captions"
    if config.remember:
        assumed += f"; of {config.remember:,} things that it remembers, half are pictures"
    return dataclasses.replace(plan_pretraining(config, cluster, cost), assumed=assumed)


def distill_core(size: str) -> DistillationConfig:
    """PE-Core-G into L, B, S or T ("l14", "b16", "s16", "t16"): 4.4 billion pairs at the final resolution.

    It begins where the student's cooldown ended; the video finetuning begins where it ends. Weight decay is the 0.05 of
    the paper's table (appendix B.1.1); its text says none, which is `--set optimizer.weight_decay=0`: LAMB stays LAMB.
    """
    model = STUDENTS[size]
    return DistillationConfig(
        model=model,
        initial=f"runs/core_{size}_cooldown/model.safetensors",
        teacher="PE-Core-G14-448",
        stages=(Stage(image_size=find_model(model).vision.image_size, steps=269_000),),
        batch_size=16_384,
        warmup=2_000,
        optimizer=OptimizerConfig(lr=1e-6, decay_tables=True),
        augmentation=None,
        half=False,
        checkpoint_every=1_000,
        checkpoint_minutes=MINUTES,
    )


def distill_builtin() -> DistillationConfig:
    """One's own pictures and any teacher into the built-in model; the teacher encodes each picture and caption once."""
    return DistillationConfig(
        model=BUILTIN,
        initial="builtin",
        teacher="PE-Core-L14-336",
        stages=(Stage(image_size=128, steps=1_000),),
        batch_size=128,
        warmup=50,
        optimizer=OptimizerConfig(lr=1e-3, plain_lr=1e-3),
        augmentation=None,
        remember=200_000,
    )
