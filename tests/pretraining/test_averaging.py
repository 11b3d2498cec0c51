"""Weights between both ends of a run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.pretraining.run import pretrain
from tests.pretraining.toys import debug


def test_weights_that_come_out_may_be_a_mean_of_both_ends(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(debug(), initial="builtin", warmup=0, half=False)
    end = load_model(pretrain(config, [photos], tmp_path / "end"))
    mean = load_model(pretrain(dataclasses.replace(config, initial_share=0.25), [photos], tmp_path / "mean"))
    begin = load_model("builtin")
    begin.visual.set_image_size(debug().stages[-1].image_size)
    ends, begins = end.state_dict(), begin.state_dict()
    for name, value in mean.state_dict().items():
        share = 0 if name == "logit_scale" else 0.25
        torch.testing.assert_close(value, (1 - share) * ends[name] + share * begins[name], msg=name)
    assert not torch.allclose(ends["visual.conv1.weight"], begins["visual.conv1.weight"], atol=1e-4)
