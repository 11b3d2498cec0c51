"""Plan a distillation: the cost of the student and of its teacher."""

from __future__ import annotations

import dataclasses

from perception_encoder.distillation.config import DistillationConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.planning.cluster import Cluster, TrainingPlan
from perception_encoder.planning.cost import TeacherCost
from perception_encoder.pretraining.plan import plan_pretraining


def teacher_cost(config: DistillationConfig, vision: VisionConfig, text: TextConfig) -> TeacherCost:
    """Return the teacher's cost; what it caches it encodes once.

    Half of `remember` are assumed to be images, half captions, and all used. An augmented or mixed image is another one
    each time.
    """
    once = min(1.0, config.remember / 2 / config.samples) if config.remember else 1.0
    same = config.augmentation is None and config.mixing is None
    return TeacherCost(vision, text, images=once if same else 1.0, captions=once)


def plan_distillation(config: DistillationConfig, cluster: Cluster) -> TrainingPlan:
    """Plan the student's run and its teacher's passes, of the architecture that the teacher's name stands for.

    ConfigError for a teacher without a text tower.
    """
    entry = find_entry(config.teacher)
    if entry.text is None:
        raise ConfigError(f"the teacher is {config.teacher}, which has no text tower; take a Core model")
    cost = teacher_cost(config, entry.vision, entry.text)
    assumed = f"the teacher encodes {cost.images:.0%} of the pairs' images and {cost.captions:.0%} of the captions"
    if config.remember:
        assumed += f"; of {config.remember:,} embeddings that it caches, half are of images"
    return dataclasses.replace(plan_pretraining(config, cluster, cost), assumed=assumed)
