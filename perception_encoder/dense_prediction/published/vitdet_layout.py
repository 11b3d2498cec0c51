"""ViTDet's Mask R-CNN as detectron2 stores it: the pyramid, the proposals, and the heads of boxes and masks.

detectron2 has the background as its last class, torchvision as the first, with a box and a mask of its own that are
never used.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor

from perception_encoder.dense_prediction.dense_model import InputConfig, WindowConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.detection.vitdet_heads import CONVOLUTIONS
from perception_encoder.dense_prediction.published.layout import KeyRow, rows_of
from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.layouts import StateDict

PREFIX = "backbone.net."
WINDOWS, IMAGE_SIZE = WindowConfig(size=32), 1024
INPUTS = InputConfig(mean=(127 / 255,) * 3, deviation=(127 / 255,) * 3)
UNUSED = (r"^pixel_(mean|std)$", r"^proposal_generator\.anchor_generator\.cell_anchors\.")
LVIS = 1203
"""Classes of LVIS, which are scored by sigmoids."""
FEDERATED = "roi_heads.box_predictor.fed_loss_cls_weights"
UNSUPPORTED = {
    r"^roi_heads\.box_head\.\d+\.": "a cascade of box heads",
    r"^backbone\.net\.blocks\.": "a ViT that is not Perception Encoder's",
    r"^backbone\.bottom_up\.": "a backbone with a pyramid of its own",
    r"\.rel_pos_[hw]$": "relative positions",
}
"""Patterns of names to what they belong to."""


def check_vitdet(state: StateDict) -> None:
    """Raise CheckpointError for parts of detectron2's models that PE's detectors do not have."""
    for pattern, part in UNSUPPORTED.items():
        if name := next((each for each in state if re.search(pattern, each)), None):
            raise CheckpointError(f"{name}: {part} is not supported")


def vitdet_config(state: StateDict) -> tuple[DetectorHeadConfig, int, bool]:
    """Return the heads' settings, the number of classes, and whether there are masks."""
    needed = ("backbone.simfp_4.0.weight", "roi_heads.box_head.fc1.weight", "roi_heads.box_predictor.cls_score.weight")
    if missing := [name for name in needed if name not in state]:
        raise CheckpointError(f"missing {', '.join(missing)}")
    channels, hidden, classes = (len(state[name]) for name in needed)
    sigmoids = FEDERATED in state or classes - 1 == LVIS
    config = DetectorHeadConfig(
        vitdet=True,
        channels=channels,
        hidden=hidden,
        regions=512,
        federated=50 if sigmoids else None,
        least_score=0.02 if sigmoids else 0.05,
        most=300 if sigmoids else 100,
    )
    return config, classes - 1, "roi_heads.mask_head.predictor.weight" in state


def vitdet_rows(state: StateDict, masks: bool) -> list[KeyRow]:
    """Return where the tensors of the heads go."""
    own, heads = "head.model", "head.model.roi_heads"
    rows = [*_pyramid_rows(f"{own}.backbone.levels"), *_proposal_rows(f"{own}.rpn.head", "proposal_generator.rpn_head")]
    rows += _convolutions(f"{heads}.box_head", "roi_heads.box_head.conv")
    rows += rows_of(f"{heads}.box_head.{CONVOLUTIONS + 1}", "roi_heads.box_head.fc1")  # a flattening is between them
    for name, convert in (("cls_score", _background_first), ("bbox_pred", _with_background_box)):
        for part in ("weight", "bias"):
            at = f"box_predictor.{name}.{part}"
            rows.append(KeyRow(f"{heads}.{at}", f"roi_heads.{at}", convert))
    if FEDERATED in state:
        rows.append(KeyRow(f"{heads}.class_weights", FEDERATED))
    if masks:
        rows += _convolutions(f"{heads}.mask_head", "roi_heads.mask_head.mask_fcn")
        rows += rows_of(f"{heads}.mask_predictor.conv5_mask", "roi_heads.mask_head.deconv")
        for part in ("weight", "bias"):
            logits = f"{heads}.mask_predictor.mask_fcn_logits.{part}"
            rows.append(KeyRow(logits, f"roi_heads.mask_head.predictor.{part}", _with_background_mask))
    return rows


def _pyramid_rows(own: str) -> list[KeyRow]:
    rows = []
    for level, first in enumerate((4, 1, 0, 1)):  # of its layers there, that of the first convolution
        there = f"backbone.simfp_{level + 2}"
        for number in (0, 1):
            convolution = f"{there}.{first + number}"
            rows.append(KeyRow(f"{own}.{level}.{1 + 2 * number}.weight", f"{convolution}.weight"))
            rows += rows_of(f"{own}.{level}.{2 + 2 * number}.norm", f"{convolution}.norm")
    rows += rows_of(f"{own}.0.0.0", "backbone.simfp_2.0")
    rows += rows_of(f"{own}.0.0.1.norm", "backbone.simfp_2.1")
    rows += rows_of(f"{own}.0.0.3", "backbone.simfp_2.3")
    rows += rows_of(f"{own}.1.0", "backbone.simfp_3.0")
    return rows


def _proposal_rows(own: str, there: str) -> list[KeyRow]:
    rows = [row for number in (0, 1) for row in rows_of(f"{own}.conv.{number}.0", f"{there}.conv.conv{number}")]
    rows += rows_of(f"{own}.cls_logits", f"{there}.objectness_logits")
    return rows + rows_of(f"{own}.bbox_pred", f"{there}.anchor_deltas")


def _convolutions(own: str, there: str) -> list[KeyRow]:
    """Rows of convolutions with norms; there they are numbered from 1."""
    rows = []
    for number in range(CONVOLUTIONS):
        rows.append(KeyRow(f"{own}.{number}.0.weight", f"{there}{number + 1}.weight"))
        rows += rows_of(f"{own}.{number}.1.norm", f"{there}{number + 1}.norm")
    return rows


def _background_first(tensor: Tensor) -> Tensor:
    return torch.cat([tensor[-1:], tensor[:-1]])


def _with_background_box(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_zeros(4, *tensor.shape[1:]), tensor])


def _with_background_mask(tensor: Tensor) -> Tensor:
    return torch.cat([tensor.new_zeros(1, *tensor.shape[1:]), tensor])
