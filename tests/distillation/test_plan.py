"""The cost of a distillation."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.distillation.config import DistillationConfig
from perception_encoder.distillation.plan import plan_distillation, watch_teacher
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.pretraining.plan import pair_cost, plan_pretraining
from perception_encoder.pretraining.run import build_model
from perception_encoder.recipes import find_recipe
from perception_encoder.training.cost import text_cost, vision_cost
from tests.pretraining.test_cost import CONFIG, TEXT, VISION


def test_the_teacher_s_passes_are_planned() -> None:
    """Once a pair; of what is remembered once for each, where pictures are neither augmented nor mixed."""
    config = find_recipe("distill_b16")
    teacher = find_model(config.teacher)
    beside = vision_cost(teacher.vision).forward + text_cost(teacher.text).forward

    def added(config: DistillationConfig) -> float:
        (phase, *_), (alone, *_) = plan_distillation(config, 8)[0], plan_pretraining(config, 8)[0]
        return (phase.flops() - alone.flops()) / phase.batch_size

    assert added(config) == pytest.approx(beside)
    half = dataclasses.replace(config, remember=config.samples)
    assert added(half) == pytest.approx(beside / 2)
    assert added(dataclasses.replace(config, remember=9 * config.samples)) == pytest.approx(beside)
    for change in ({"augmentation": Augmentation()}, {"mixing": Mixing()}):
        drawn = dataclasses.replace(half, **change)
        assert added(drawn) == pytest.approx(vision_cost(teacher.vision).forward + text_cost(teacher.text).forward / 2)
    with pytest.raises(ConfigError, match="the teacher is PE-Spatial-T16-512, which has no text tower"):
        plan_distillation(dataclasses.replace(config, teacher="PE-Spatial-T16-512"), 8)
    memory = plan_distillation(config, 8)[0][0].memory(config, 8)
    assert memory["frozen models"] == 2 * (teacher.vision.parameters + teacher.text.parameters)
    assert memory["images"] == 3 * 3 * config.batch_size / 8 * teacher.vision.image_size**2  # large enough for it


def test_the_teacher_s_passes_are_counted_as_it_runs() -> None:
    """As torch counts them, of what it is shown and no more."""
    model = build_model(CONFIG)
    model.visual.set_image_size(VISION.image_size)
    taught = watch_teacher(model)
    with FlopCounterMode(display=False) as counter:  # with gradients, as torch knows no operations of fused attention
        model.encode_image(torch.zeros(2, 3, 64, 64))
        model.encode_text(torch.ones(3, 5, dtype=torch.int64))
    assert taught() == counter.get_total_flops() - 2 * VISION.width**2 and taught() == 0
    images, truth = torch.zeros(4, 3, 128, 128, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.bool)
    batch = ImageTextBatch(images, torch.ones(4, 5, dtype=torch.int64), truth, truth)
    small = dataclasses.replace(VISION, image_size=64)
    alone = ImageTextBatch(images[..., :64, :64], batch.tokens, truth, truth)
    model.encode_image(torch.zeros(1, 3, 128, 128))
    own = pair_cost(CONFIG, VISION, TEXT).flops(alone)  # of a student of 64 px
    assert pair_cost(CONFIG, small, TEXT, taught=taught).flops(batch) == own + vision_cost(VISION).forward
