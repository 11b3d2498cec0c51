"""ViTDet's layout: every tensor of ours has a row, and the published shapes fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from perception_encoder.dense_prediction.published.detectors import published_detector
from perception_encoder.dense_prediction.published.vitdet_layout import (
    FEDERATED,
    check_vitdet,
    vitdet_config,
    vitdet_rows,
)
from tests.dense_prediction.published.renamed import to_detectron2, vitdet
from tests.dense_prediction.published.shapes import mask_rcnn


def test_every_tensor_has_a_row() -> None:
    model = vitdet(lvis=True)
    state = to_detectron2(model)
    check_vitdet(state)
    rows = vitdet_rows(state, masks=True)
    own = {f"head.{name}" for name in model.head.state_dict() if "standardize" not in name}
    assert {row.own for row in rows} == own and {row.published for row in rows} <= set(state)
    assert not any("mask" in row.own for row in vitdet_rows(state, masks=False))


@pytest.mark.parametrize(("classes", "layer_scale", "federated"), [(80, True, False), (1203, False, True)])
def test_the_published_shapes_fit(classes: int, layer_scale: bool, federated: bool) -> None:
    """PE-Spatial-G has LayerScale, PE-Core-G has none."""
    model, info = published_detector(Path("a.pth"), mask_rcnn(classes, layer_scale, federated))
    assert info.image_size == 1024 and info.masks and len(info.classes) == classes
    assert info.windows is not None and (info.windows.size, info.windows.span) == (32, 32)
    assert model.head.model.roi_heads.score_thresh == (0.02 if federated else 0.05)
    assert (info.classes[0] == "person") == (classes == 80)


def test_lvis_is_told_by_its_classes_too() -> None:
    state = mask_rcnn(1203, True, True)
    del state[FEDERATED]
    config, classes, masks = vitdet_config(state)
    assert (config.federated, config.most, classes, masks) == (50, 300, 1203, True)
