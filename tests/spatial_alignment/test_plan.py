"""Plans of spatial alignments: operations as they are counted, and who is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.errors import ConfigError
from perception_encoder.spatial_alignment import STAGE
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.recipes import distill_spatial, plan_spatial, spatial_g
from perception_encoder.spatial_alignment.run import SpatialTrainee
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialBatch
from perception_encoder.stages import plan_training
from perception_encoder.training.cost import find_device

H100 = find_device("h100")


def test_operations_are_those_that_are_counted() -> None:
    config = SpatialConfig(image_size=64, teacher_layer=8, layer_scale=None, masking=None, drop_path=0.0)
    trainee = SpatialTrainee(config)
    task = SpatialAlignmentTask(trainee.student, trainee.teacher, config)
    images = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    batch = SpatialBatch(images=images, share=1.0)
    with FlopCounterMode(display=False) as counter:
        task.losses(batch)["core"].backward()
    (phase,), _ = plan_spatial(config)
    assert counter.get_total_flops() == pytest.approx(2 * phase.flops() / phase.batch_size, rel=0.02)


def test_the_planned_towers_are_those_that_are_trained() -> None:
    config = SpatialConfig(image_size=64, teacher_layer=8)
    trainee = SpatialTrainee(config)
    assert trainee.teacher is not None
    parts = plan_spatial(config)[0][0].parts
    for part, model in zip(parts, (trainee.student.vision, trainee.teacher), strict=True):
        assert part.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert len(plan_spatial(replace(config, core_weight=0.0, masks="sam"))[0][0].parts) == 1


def test_a_teacher_adds_its_pass_and_masks_their_products() -> None:
    whole = spatial_g()
    alone = replace(whole, masks=None)
    hours = [plan_training(STAGE, item, H100, 4).hours() for item in (whole, alone, replace(whole, teacher_layer=10))]
    assert hours[0] > hours[1] and hours[0] > hours[2]
    assert "not counted" in plan_spatial(whole)[1] and plan_spatial(alone)[1] == ""
    assert plan_training(STAGE, distill_spatial("t16"), H100, 4).memory()["frozen models"] > 7e9, "it is PE-Spatial-G"


def test_a_batch_is_shared_by_all_devices() -> None:
    with pytest.raises(ConfigError, match="a batch of 2 cannot be shared by 4 devices"):
        plan_spatial(SpatialConfig(batch_size=2), 4)
    (phase,), _ = plan_spatial(SpatialConfig(batch_size=4, steps=10), 4)
    assert (phase.batch_size, phase.steps) == (4, 10), "an image for each device will do"
