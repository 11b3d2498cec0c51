"""Plan the training of a head."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.dense_prediction.dense_model import TASKS, Head, HeadInfo, make_head
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_training.config import DenseConfig, DetectorConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.training import cost as costs

CLASSES = 80
"""Number of classes, as in COCO: a plan has no data."""


def plan_dense(config: DenseConfig, devices: int = 1) -> tuple[list[costs.Phase], str]:
    """Return the run's one phase and its assumptions; ConfigError for a model of another library."""
    if ":" in config.encoder:
        raise ConfigError(f"only models of this package can be planned; {config.encoder} is from another library")
    tower, windows = costs.cut_tower(find_entry(config.encoder).vision, config.layer), config.windows
    if windows is not None:
        patch = windows.patch_size
        tower = dataclasses.replace(tower, patch_size=patch, image_size=tower.grid * patch, class_token=False)
    cost, side = costs.vision_cost(tower, config.image_size), config.image_size // tower.patch_size
    if windows is not None:
        whole = len([block for block in windows.global_blocks if block < cost.depth]) / cost.depth
        filled = (-(-side // windows.size) * windows.size) ** 2 / cost.tokens
        span = whole * cost.tokens + (1 - whole) * filled * windows.size**2
        cost = dataclasses.replace(cost, span=span, padded=whole + (1 - whole) * filled)
    if config.frozen:  # it stands beside what FSDP shares out
        cost = dataclasses.replace(cost, block_parameters=0)
    parts = costs.StepModel(cost, trained=not config.frozen), costs.StepModel(head_cost(config, tower.width, side))
    images = costs.device_rows(config.batch_size, devices) * 3.0 * config.image_size**2
    batch = {"images": images * (costs.BATCHES + costs.FLOAT32)}  # bytes, and the current batch's as numbers
    phase = costs.Phase(config.image_size, config.steps, config.batch_size, parts, batch=batch)
    return [phase], f"{CLASSES} classes"


def head_cost(config: DenseConfig, width: int, side: int) -> costs.ModelCost:
    """Return the cost of a head on one map of side x side patches, counted on a head without weights."""
    with torch.device("meta"):
        head, features = _make_head(config, width), torch.empty(1, side, side, width)
        weights = {parameter.untyped_storage()._cdata for parameter in head.parameters()}
        saved: dict[int, Tensor] = {}

        def save(tensor: Tensor) -> Tensor:
            saved.setdefault(tensor.untyped_storage()._cdata, tensor)
            return tensor

        with (
            FlopCounterMode(display=False) as counter,
            torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor),
        ):
            flops, held = _run(head, features)
    sizes = [tensor.untyped_storage().nbytes() for storage, tensor in saved.items() if storage not in weights]
    held += sum(sizes) * costs.BFLOAT16 / costs.FLOAT32  # as autocast has it
    return costs.ModelCost(parameters=_parameters(head), head=counter.get_total_flops() + flops, ends=held)


def _make_head(config: DenseConfig, width: int) -> Head:
    settings, masks = config.head, isinstance(config, DetectorConfig) and config.masks and not config.class_agnostic
    task = next(name for name, kind in TASKS.items() if isinstance(settings, kind))
    head, classes = dataclasses.asdict(settings), ("",) * CLASSES
    info = HeadInfo(task=task, encoder="", weights="", layer=0, image_size=1, head=head, classes=classes, masks=masks)
    return make_head(info, width)


def _run(head: Head, features: Tensor) -> tuple[float, float]:
    """Run the parts of a head that work without weights; return the operations of the rest and the bytes it saves."""
    if isinstance(head, DetrHead):
        head.pyramid(features)
        return _detr_cost(head, features.shape[1])
    if not isinstance(head, Detector):
        head(features)
        return 0.0, 0.0
    model = head.model
    levels = list(model.backbone(features).values())
    for level in levels:
        model.rpn.head([level])
    channels, regions = levels[0].shape[1], head.regions
    model.roi_heads.box_head(torch.empty(regions, channels, 7, 7))
    if head.masks:  # a quarter of the regions is an object's
        model.roi_heads.mask_head(torch.empty(regions // 4, channels, 14, 14))
    return 0.0, 0.0


def _detr_cost(head: DetrHead, side: int) -> tuple[float, float]:
    """Return the operations of a DETR's linear layers and of its queries' attention, and the bytes they save.

    In each layer a token or query saves a value of each channel at 20 points, in float32, where they are, and what the
    linear layers read.
    """
    config, tokens = head.config, sum(h * w for h, w in head.pyramid.sizes((side, side)))
    queries, channels = config.queries, config.channels
    linear = tokens * (_parameters(head.encoder) + _parameters(head.proposal)) + queries * _parameters(head.decoder)
    values = tokens * config.layers * channels**2  # of the decoder's cross attention, for every token
    attention = 2 * config.layers * queries**2 * channels
    held = config.layers * (tokens + queries) * (110 * channels + 2 * config.hidden + 1600)
    held += 32 * head.classes * (tokens + config.layers * queries)  # scores and what their losses keep
    return 2.0 * (linear + values + attention), float(held)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
