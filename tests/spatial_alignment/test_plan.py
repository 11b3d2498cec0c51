"""Plans of spatial alignments: operations as they are counted, and who is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.errors import ConfigError
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.spatial_alignment.recipes import plan_spatial
from perception_encoder.spatial_alignment.run import SpatialTrainee
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialBatch
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
    ((phase,), assumed) = plan_spatial(replace(config, core_weight=0.0, masks="sam"))
    assert len(phase.parts) == 1 and "not counted" in assumed and phase.losses > 0
    with pytest.raises(ConfigError, match="a batch of 2 cannot be shared by 4 devices"):
        plan_spatial(replace(config, batch_size=2), 4)
