"""Run a distillation: a run on pairs, as a pretraining is, by the teacher's task (section 2.4)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from perception_encoder.data.captions import SourceRules
from perception_encoder.data.streams import Shards
from perception_encoder.distillation.config import DistillationConfig
from perception_encoder.distillation.plan import teacher_parts, watch_teacher
from perception_encoder.distillation.task import DistillationTask
from perception_encoder.distillation.teacher import Teacher, load_teacher
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.clip import CLIP
from perception_encoder.pretraining.run import PairRun
from perception_encoder.progress import Track, untracked
from perception_encoder.training.checkpoint import run_directory
from perception_encoder.training.cost import StepModel
from perception_encoder.training.distributed import process_group
from perception_encoder.training.metrics import Listener


def distill(
    config: DistillationConfig,
    data: Sequence[Path | Shards],
    out: Path,
    track: Track = untracked,
    listener: Listener | None = None,
    teacher: Teacher | None = None,
    rules: SourceRules | None = None,
) -> Path:
    """Run, or resume, a distillation; return the student's weights, as `pretrain` does.

    `teacher` replaces the one that `config` names, by a model of another library for example; `rules`: as `pretrain`'s.
    Images are made once, at the larger of the two models' sizes, and each model sees them scaled down to its own: both
    see the same crop, and one more antialiased step costs less than decoding twice.
    """
    with process_group() as rank, run_directory(out):
        teacher = teacher or load_teacher(config.teacher, config.remember)
        config = dataclasses.replace(config, image_side=max(config.image_side, teacher.image_size))
        run = PairRun(config, data, out, rank, track, teacher.image_size, [teacher.identity], rules)
        watched = _watched(config, teacher)
        for end in run.resolutions():
            size = run.towers.clip.visual.config.image_size
            scale, weight = config.teacher_logit_scale, config.contrastive_weight
            task = DistillationTask(run.towers, teacher, size, scale, weight, run.validation)
            run.train(task, end, run.cost(*watched) if watched else None, listener)
        return run.write()


def _watched(config: DistillationConfig, teacher: Teacher) -> tuple[Sequence[StepModel], Callable[[], float]] | None:
    """Return what `PairRun.cost` takes for a teacher that is a model of this package."""
    encoder = teacher.encoder
    if not isinstance(encoder, Encoder) or not isinstance(encoder.model, CLIP):
        return None
    model = encoder.model
    return teacher_parts(config, model.visual.config, model.text.config), watch_teacher(model)
