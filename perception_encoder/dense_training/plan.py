"""Plan the training of a head."""

from __future__ import annotations

from dataclasses import asdict, replace

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.dense_prediction.dense_model import TASKS, HeadInfo, make_head
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
    tower = costs.cut_tower(find_entry(config.encoder).vision, config.layer)
    size, windows = config.image_size, config.windows
    if windows:
        patch = windows.patch_size
        tower = replace(tower, patch_size=patch, image_size=tower.grid * patch, class_token=False)
    part, side = costs.tower_part(tower, size, not config.frozen), size // tower.patch_size
    if windows:
        whole = sum(block < tower.depth for block in windows.global_blocks) / tower.depth
        padded = (-(-side // windows.size) * windows.size / side) ** 2  # of windows that exceed the map
        linear, scores = (whole + (1 - whole) * padded * share for share in (1, (windows.size / side) ** 2))
        factors = (linear, scores, linear, 1, 1)
        block = (item._replace(flops=item.flops * factor) for item, factor in zip(part.block, factors, strict=True))
        part = replace(part, block=tuple(block))
    if config.frozen:  # it stands beside what FSDP shares out
        part = replace(part, block_parameters=0)
    images = costs.device_rows(config.batch_size, devices) * 3.0 * size**2
    batch = {"images": images * (costs.BATCHES + costs.FLOAT32)}  # bytes, and the current batch's as numbers
    parts = part, head_part(config, tower.width, side)
    return [costs.Phase(size, config.steps, config.batch_size, parts, batch=batch)], f"{CLASSES} classes"


def head_part(config: DenseConfig, width: int, side: int) -> costs.Part:
    """Return the cost of a head on one map of side x side patches, measured on a head without weights."""
    settings, masks = config.head, isinstance(config, DetectorConfig) and config.masks and not config.class_agnostic
    task = next(name for name, kind in TASKS.items() if isinstance(settings, kind))
    shape, classes = asdict(settings), ("",) * CLASSES
    info = HeadInfo(task=task, encoder="", weights="", layer=0, image_size=1, head=shape, classes=classes, masks=masks)
    with torch.device("meta"):
        head, features = make_head(info, width), torch.empty(1, side, side, width)
    flops, held, saved = 0.0, 0.0, dict[int, Tensor]()

    def save(tensor: Tensor) -> Tensor:
        return saved.setdefault(tensor.untyped_storage()._cdata, tensor)

    unpacked = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, unpacked:
        if isinstance(head, DetrHead):  # its layers depend on values
            head.pyramid(features)
            flops, held = _detr_cost(head, side)
        elif isinstance(head, Detector):
            levels, model = list(head.model.backbone(features).values()), head.model
            model.rpn.head(levels)
            model.roi_heads.box_head(torch.empty(head.regions, levels[0].shape[1], 7, 7))
            if head.masks:  # a quarter of the regions is an object's
                model.roi_heads.mask_head(torch.empty(head.regions // 4, levels[0].shape[1], 14, 14))
        else:
            head(features)
    for parameter in head.parameters():
        saved.pop(parameter.untyped_storage()._cdata, None)
    held += sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / 2  # in bfloat16
    parameters, product = _parameters(head), costs.Product(flops + counter.get_total_flops())
    return costs.Part(parameters=parameters, trained=parameters, exit=(product,), inner=True, end_bytes=held)


def _detr_cost(head: DetrHead, side: int) -> tuple[float, float]:
    """Return the operations of a DETR's linear layers and of its queries' attention, and the bytes they save.

    In each layer a token or query saves a value of each channel at 20 points, in float32, where they are, and what the
    linear layers read.
    """
    config, tokens = head.config, sum(h * w for h, w in head.pyramid.sizes((side, side)))
    queries, channels = config.queries, config.channels
    linear = tokens * (_parameters(head.encoder) + _parameters(head.proposal)) + queries * _parameters(head.decoder)
    attention = config.layers * channels * (tokens * channels + 2 * queries**2)  # with the values of every token
    held = config.layers * (tokens + queries) * (110 * channels + 2 * config.hidden + 1600)
    held += 32 * head.classes * (tokens + config.layers * queries)  # scores and what their losses keep
    return 2.0 * (linear + attention), float(held)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
