"""A teacher's operations, counted and planned."""

from __future__ import annotations

import dataclasses

import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.pairs import Stage
from perception_encoder.models.clip import CLIP
from perception_encoder.planning.cluster import Cluster
from perception_encoder.planning.cost import (
    text_cost,
    vision_cost,
)
from perception_encoder.planning.devices import Device
from perception_encoder.planning.teacher import TeacherCost
from perception_encoder.pretraining.config import PretrainingConfig, tower_configs
from perception_encoder.pretraining.cost import RunCost
from perception_encoder.pretraining.plan import plan_pretraining
from perception_encoder.pretraining.run import build_model

CONFIG = PretrainingConfig(
    model="builtin", stages=(Stage(image_size=32, steps=10), Stage(image_size=64, steps=5, batch_size=8)), batch_size=16
)


VISION, TEXT = tower_configs(CONFIG)


CLUSTER = Cluster(device=Device(flops=1e12, memory=1e9), devices=4, utilization=0.5)


def whole_model() -> CLIP:
    """The model of the run at its own resolution, which plans are for; the run draws positions at its first one."""
    model = build_model(CONFIG)
    model.visual.set_image_size(VISION.image_size)
    return model


def test_a_teacher_s_passes_come_on_top() -> None:
    """Its passes as torch counts them, of what it is shown and no more; in the plan as often a pair as is said."""
    model = whole_model()
    teacher = TeacherCost(VISION, TEXT, images=0.5)
    teacher.watch(model)
    pair = vision_cost(VISION).forward / 2 + text_cost(TEXT).forward
    with_it = plan_pretraining(CONFIG, CLUSTER, teacher).stages[0]
    assert with_it.flops == plan_pretraining(CONFIG, CLUSTER).stages[0].flops + 160 * pair
    assert with_it.memory["teacher"] == 2 * (sum(p.numel() for p in model.parameters()) - 1)
    assert with_it.memory["images"] == 3 * 3 * 4 * 128**2  # large enough for the teacher
    with FlopCounterMode(display=False) as counter:  # with gradients, as torch knows no operations of fused attention
        model.encode_image(torch.zeros(2, 3, 64, 64))
        model.encode_text(torch.ones(3, 5, dtype=torch.int64))
    assert teacher.take() == counter.get_total_flops() - 2 * VISION.width**2 and teacher.take() == 0
    pictures, truth = torch.zeros(4, 3, 128, 128, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.bool)
    batch = ImageTextBatch(pictures, torch.ones(4, 5, dtype=torch.int64), truth, truth)
    small = dataclasses.replace(VISION, image_size=64)
    alone = ImageTextBatch(pictures[..., :64, :64], batch.tokens, truth, truth)
    model.encode_image(torch.zeros(1, 3, 128, 128))
    own = RunCost(CONFIG, VISION, TEXT).flops(alone)  # of a student of 64 px
    assert RunCost(CONFIG, small, TEXT, teacher=teacher).flops(batch) == own + vision_cost(VISION).forward
