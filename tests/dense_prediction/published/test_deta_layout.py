"""DETA's layout: every tensor of ours has a row, and the published shapes fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from perception_encoder.dense_prediction.published.deta_layout import ClassRows, deta_config, deta_rows, find_prefix
from perception_encoder.dense_prediction.published.detectors import published_detector
from perception_encoder.errors import CheckpointError
from tests.dense_prediction.published.renamed import deta, to_deta
from tests.dense_prediction.published.shapes import deta_coco


def test_every_tensor_has_a_row() -> None:
    model = deta()
    state = to_deta(model, range(1, 5), 5)
    config, classes = deta_config(state)
    assert (config.channels, config.layers, config.hidden) == (32, 2, 24) and classes == ClassRows((1, 2, 3, 4), 5)
    rows = deta_rows(find_prefix(state), config.layers, classes)
    own = {f"head.{name}" for name in model.head.state_dict() if "standardize" not in name}
    assert {row.own for row in rows} == own and {row.published for row in rows} <= set(state)


def test_the_published_shapes_fit() -> None:
    model, info = published_detector(Path("deta_coco_1824pix.pth"), deta_coco())
    assert info.image_size == 1824 and len(info.classes) == 80 and info.task == "detr"
    assert info.windows is not None and (info.windows.size, info.windows.span) == (24, 16)
    assert info.windows.global_blocks == (12, 24, 36, 49)
    assert len(model.head.encoder.layers) == 6 and model.head.config.queries == 900


def test_prefixes() -> None:
    for prefix in ("backbone.0.", "backbone.0.body."):
        assert find_prefix({f"{prefix}conv1.weight": torch.ones(1), "x.conv1.weight": torch.ones(1)}) == prefix
    with pytest.raises(CheckpointError, match="there are 2 tensors"):
        find_prefix({"backbone.0.a.conv1.weight": torch.ones(1), "backbone.0.b.conv1.weight": torch.ones(1)})
