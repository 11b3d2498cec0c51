"""A depth head of random weights for the tests' encoder."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from perception_encoder.dense_prediction.dense_model import Backbone, DenseModel, HeadInfo, make_head, write_head
from perception_encoder.dense_prediction.depth import DepthHead, DepthHeadConfig
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.tower import Tower


def write_depth_head(path: Path, checkpoint: Path, **changes: object) -> Path:
    """Write a head on layer 2 of a checkpoint's tower whose depths vary; `changes`: of its `HeadInfo`."""
    tower = Tower.of(load_model(checkpoint))
    info = HeadInfo(
        task="depth",
        encoder=str(checkpoint),
        weights=tower.weight_hash,
        layer=2,
        image_size=128,
        head=asdict(DepthHeadConfig(channels=8)),
    )
    with drawn_from(torch.Generator().manual_seed(0)):
        head = make_head(info, tower.width)
        assert isinstance(head, DepthHead) and isinstance(head.out[-1], nn.Conv2d)
        nn.init.normal_(head.out[-1].weight, std=2.0)
    write_head(path, DenseModel(Backbone(tower, 2, frozen=True), head), replace(info, **changes), half=False)
    return path
