"""Plan the training of a head before it begins: operations counted on a model without weights, hours, and memory."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.dense_prediction.dense_model import LayerBackbone
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.detection.detr import DetrHead, DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector, DetectorHeadConfig
from perception_encoder.dense_prediction.segmentation import SegmentationHead
from perception_encoder.dense_training.config import DenseConfig, DepthTrainingConfig, DetectorConfig, SegmenterConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.tower import OwnTower
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.planning.activations import BFLOAT16, FLOAT32, OPTIMIZER, vision_activations
from perception_encoder.planning.cluster import Cluster, StagePlan, TrainingPlan

CLASSES = 80
"""Of the dataset, as in COCO: a plan knows no data."""
HEAD_ACTIVATIONS = 24
"""Numbers that a head holds for each number of its widest map, roughly."""


def plan_dense(config: DenseConfig, cluster: Cluster) -> TrainingPlan:
    """Plan a run on a model of this package; ConfigError for another, and for a batch smaller than the devices."""
    if config.batch_size < cluster.devices:
        raise ConfigError(f"a batch of {config.batch_size} cannot be shared by {cluster.devices} devices")
    backbone, head = _models(config)
    forward, of_head = _flops(config, backbone, head)
    again = forward if config.parallel.checkpointing and not config.frozen else 0.0
    image = (1 if config.frozen else 3) * forward + 3 * of_head
    samples = config.steps * config.batch_size
    stage = StagePlan(
        image_size=config.image_size,
        steps=config.steps,
        samples=samples,
        flops=samples * image,
        executed=samples * (image + again),
        memory=_memory(config, backbone, head, cluster.devices),
    )
    assumed = f"{CLASSES} classes; a head's own memory is an estimate"
    return TrainingPlan(parameters=_count(backbone) + _count(head), stages=(stage,), cluster=cluster, assumed=assumed)


def _models(config: DenseConfig) -> tuple[LayerBackbone, nn.Module]:
    if ":" in config.encoder:
        raise ConfigError(f"plans know the models of this package; {config.encoder} is of another library")
    vision = dataclasses.replace(find_entry(config.encoder).vision, attention_pool=False, output_dim=None)
    with torch.device("meta"):
        model = VisionTransformer(vision)
        tower = OwnTower(
            model=model,
            norm=model.ln_post,
            depth=vision.depth,
            patch_size=vision.patch_size,
            image_size=(vision.image_size, vision.image_size),
            width=vision.width,
            weight_hash="",
        )
        layer = config.layer % vision.depth
        backbone = LayerBackbone(tower, layer, config.frozen, config.windows, config.image_size)
        match config:
            case DepthTrainingConfig(head=depth):
                return backbone, DepthHead(vision.width, depth)
            case SegmenterConfig(head=segmentation):
                return backbone, SegmentationHead(vision.width, CLASSES, segmentation.kernel)
            case DetectorConfig(head=DetrHeadConfig() as detr):
                return backbone, DetrHead(vision.width, CLASSES, detr)
            case DetectorConfig(head=DetectorHeadConfig() as detector):
                return backbone, Detector(vision.width, CLASSES, config.masks and not config.class_agnostic, detector)
    raise AssertionError(f"{type(config).__name__} has no head")


def _flops(config: DenseConfig, backbone: LayerBackbone, head: nn.Module) -> tuple[float, float]:
    """Operations of the encoder's and of the head's forward pass of one image."""
    side = config.image_size // backbone.patch_size
    meta = torch.device("meta")
    encoder = _counted(backbone, torch.empty(1, 3, config.image_size, config.image_size, device=meta))
    features = torch.empty(1, side, side, backbone.width, device=meta)
    if isinstance(head, DetrHead):
        return encoder, _detr_flops(head, side, features)
    if not isinstance(head, Detector):
        return encoder, _counted(head, features)
    parts, model = 0.0, head.model
    parts += _counted(model.backbone, features)
    levels = list(model.backbone(features).values())
    parts += sum(_counted(model.rpn.head, [level]) for level in levels)
    channels, regions = levels[0].shape[1], head.regions
    parts += _counted(model.roi_heads.box_head, torch.empty(regions, channels, 7, 7, device=meta))
    if head.masks:
        parts += _counted(model.roi_heads.mask_head, torch.empty(regions // 4, channels, 14, 14, device=meta))
    return encoder, parts


def _detr_flops(head: DetrHead, side: int, features: Tensor) -> float:
    """Operations of a DETR's pyramid, of its linear layers, and of its queries' attention; sampling is not counted."""
    tokens = sum(h * w for h, w in head.pyramid.sizes((side, side)))
    queries, channels = head.config.queries, head.config.channels
    linear = tokens * (_count(head.encoder) + _count(head.proposal)) + queries * _count(head.decoder)
    values = tokens * head.config.layers * channels**2  # of the decoder's cross attention, for every token
    attention = 2 * head.config.layers * queries**2 * channels
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        head.pyramid(features)
    return float(counter.get_total_flops()) + 2.0 * (linear + values + attention)


def _counted(module: nn.Module, inputs: Tensor | list[Tensor]) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(inputs)
    return float(counter.get_total_flops())


def _memory(config: DenseConfig, backbone: LayerBackbone, head: nn.Module, devices: int) -> dict[str, float]:
    """Bytes that a step holds on a device, by what they are; leave a tenth free."""
    share = 1 / devices if config.parallel.kind == "fsdp" else 1.0
    rows = -(-config.batch_size // devices)
    trained = _count(head) + (0 if config.frozen else _count(backbone))
    patches = (config.image_size // backbone.patch_size) ** 2
    vision: VisionConfig = backbone.model.config  # type: ignore[assignment]
    patch = backbone.patch_size
    tower = dataclasses.replace(vision, depth=1 if config.frozen else vision.depth, patch_size=patch)
    activations = vision_activations(tower, config.image_size, BFLOAT16).total(config.parallel.checkpointing)
    parts = {
        "weights": FLOAT32 * trained * share,
        "frozen encoder": float(FLOAT32 * _count(backbone)) if config.frozen else 0.0,
        "bf16 copies": float(BFLOAT16 * (_count(backbone) + _count(head))),
        "gradients": FLOAT32 * trained * share,
        "optimizer": OPTIMIZER * FLOAT32 * trained * share,
        "activations": float(rows * activations),
        "head": float(rows * patches * 16 * config.head_channels * HEAD_ACTIVATIONS * BFLOAT16),
        "images": 2 * rows * 3.0 * FLOAT32 * config.image_size**2,
    }
    return {name: size for name, size in parts.items() if size}


def _count(module: nn.Module) -> int:
    return sum(each.numel() for each in module.parameters())
