"""What tasks on two towers share."""

from __future__ import annotations

import pytest

from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers


def test_the_logit_scale_is_clamped() -> None:
    towers = Towers(create_model("builtin"))
    task = ContrastiveTask(towers)
    towers.clip.logit_scale.data.fill_(9.0)
    task.after_step()
    assert towers.clip.logit_scale.exp().item() == pytest.approx(100.0)
