"""Recipes of heads for depth, segmentation and detection, and their plans."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.dense_prediction.dense_model import HeadInfo, make_head
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.vitdet import WindowConfig
from perception_encoder.dense_training.config import DenseConfig, DepthTrainingConfig, DetectorConfig, SegmenterConfig
from perception_encoder.dense_training.kinds import KINDS, parameter_count
from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN
from perception_encoder.training.config import ValidationConfig, debug_loop
from perception_encoder.training.cost import BATCHES, FLOAT32, Part, Phase, Product, cut_tower, device_rows, tower_part
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig

COCO = 118_287  # training images of COCO 2017
VITDET = {
    "core_g14": ("PE-Core-G14-448", 138_281, 5e-5, 0.9, 0.5, (12, 24, 36, 49), None),
    "spatial_g14": ("PE-Spatial-G14-448", 66_375, 5e-5, 0.9, 0.5, (12, 24, 36, 49), None),
    "core_l14": ("PE-Core-L14-336", 184_375, 1e-4, 0.8, 0.4, (5, 11, 17, 23), 32),
    "spatial_l14": ("PE-Spatial-L14-448", 184_375, 1e-4, 0.8, 0.4, (5, 11, 17, 23), None),
}
"""By recipe: encoder, steps, rate, decay by layer, drop path, global blocks (table 24), and the side of the tile of
positions, if the encoder's own is not of 32 patches. The steps are the published configs': 75 %, 36 % and all of the
184,375 that are 100 epochs of COCO."""
LVIS_STEPS = 138_281  # 75 % of 184,375 for Core and for Spatial, in the published configs
OBJECTS365 = 1_742_289  # training images of Objects365 v2
DETA = {
    1: (1024, 12, OBJECTS365, 256, 2e-4, 10, 0.5),
    2: (1536, 6, OBJECTS365, 128, 5e-5, 5, 0.5),
    3: (1728, 12, COCO, 64, 5e-5, 8, 0.4),
    4: (1824, 3, COCO, 64, 5e-3, 2, 0.0),
}
"""By stage: pixels, epochs, images, batch, rate, the epoch at which it falls to a tenth, and drop path, which the paper
has as 0.5, 0.4 and 0."""
DROPS = (163_889 / 184_375, 177_546 / 184_375)
"""Shares of the steps at which ViTDet's rate falls to a tenth, as in the released configs."""


def depth_estimator() -> DepthTrainingConfig:
    """Depth of each pixel by a DPT head, on images whose longer side is the square's or larger."""
    return DepthTrainingConfig(scales=(1.0, 2.0))


def segmenter() -> SegmenterConfig:
    """A class for each pixel by a convolution over neighbouring patches."""
    return SegmenterConfig()


def detector() -> DetectorConfig:
    """Boxes and masks of objects by Mask R-CNN over a simple feature pyramid."""
    return DetectorConfig()


def vitdet(name: str) -> DetectorConfig:
    """Mask R-CNN on COCO at 1024 px, the encoder finetuned, most of its blocks within windows (table 24)."""
    _, steps, lr, decay, drop, *_ = VITDET[name]
    return replace(
        frozen_vitdet(name),
        frozen=False,
        steps=steps,
        drop_path=drop,
        optimizer=_detectron2(lr, decay),
        parallel=ParallelConfig(kind="fsdp", checkpointing=True),
    )


def _detectron2(lr: float, layer_decay: float | None = None) -> OptimizerConfig:
    """AdamW as in ViTDet's configs: all tensors decay, and no gradient is clipped."""
    return OptimizerConfig(
        name="adamw",
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=0.1,
        decay_all=True,
        max_grad_norm=None,
        layer_decay=layer_decay,
    )


def frozen_vitdet(name: str) -> DetectorConfig:
    """The same with a frozen encoder, for 15 epochs: how layers are compared in section 3 (appendix B.3)."""
    encoder, *_, global_blocks, tile = VITDET[name]
    return DetectorConfig(
        encoder=encoder,
        windows=WindowConfig(global_blocks=global_blocks, tile=tile),
        image_size=1024,
        scales=(0.1, 2.0),
        steps=15 * COCO // 64,
        batch_size=64,
        warmup=250,
        drops=DROPS,
        optimizer=_detectron2(1e-4),
        head=DetectorHeadConfig(vitdet=True),
        validation=ValidationConfig(every=5_000, size=5_000),
        checkpoint_every=1_000,
        half=False,
    )


def vitdet_lvis(name: str) -> DetectorConfig:
    """The same on LVIS: sigmoids and the federated loss, rarer classes more often, 300 detections of 0.02 and above."""
    head = DetectorHeadConfig(vitdet=True, federated=50, least_score=0.02, most=300)
    return replace(vitdet(name), steps=LVIS_STEPS, head=head, repeat_threshold=1e-3)


def deformable_detr() -> DetectorConfig:
    """Boxes of objects by a small DETA, a deformable DETR with several queries per object, on a frozen encoder."""
    return DetectorConfig(
        masks=False,
        head=DetrHeadConfig(channels=128, layers=3, hidden=512, queries=100),
        optimizer=_deta_optimizer("adamw", 2e-4),
    )


def _deta_optimizer(name: Literal["adamw", "sgd"], lr: float, layer_decay: float | None = None) -> OptimizerConfig:
    return OptimizerConfig(
        name=name,
        lr=lr,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
        decay_all=True,
        max_grad_norm=0.1,
        slow=("sampling_offsets", "reference_points"),
        layer_decay=layer_decay,
    )


def deta(stage: int) -> DetectorConfig:
    """The system-level detector on PE-Spatial-G (B.3.5): Objects365 at 1024 and 1536 px, then COCO at 1728 and 1824."""
    size, epochs, images, batch, lr, drop, path = DETA[stage]
    optimizer = _deta_optimizer("sgd" if stage == len(DETA) else "adamw", lr, 0.9)
    before = None if stage == 1 else f"runs/detr_spatial_g14_{stage - 1}/head.safetensors"
    return replace(
        vitdet("spatial_g14"),
        masks=False,
        head=DetrHeadConfig(),
        initial=before,
        image_size=size,
        windows=WindowConfig(size=24, tile=24),
        scales=None,
        warmup=0,
        steps=round(epochs * images / batch),
        batch_size=batch,
        drops=(drop / epochs,),
        optimizer=optimizer,
        drop_path=path,
    )


def debug_dense(config: DenseConfig) -> DenseConfig:
    """Return the same task in four steps, on the built-in model."""
    return replace(
        debug_loop(config),
        encoder=BUILTIN,
        layer=-1,
        initial=None,
        windows=None if config.windows is None else WindowConfig(size=2, global_blocks=(5, 11)),
        image_size=64,
        steps=4,
        batch_size=4,
    )


CLASSES = 80  # number of classes, as in COCO: a plan has no data


def plan_dense(config: DenseConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return the run's one phase and its assumptions; ConfigError for a model of another library."""
    if ":" in config.encoder:
        raise ConfigError(f"only models of this package can be planned; {config.encoder} is from another library")
    tower = cut_tower(find_entry(config.encoder).vision, config.layer)
    size, windows = config.image_size, config.windows
    if windows:
        patch = windows.patch_size
        tower = replace(tower, patch_size=patch, image_size=tower.grid * patch, class_token=False)
    part, side = tower_part(tower, size, not config.frozen), size // tower.patch_size
    if windows:
        whole = sum(block < tower.depth for block in windows.global_blocks) / tower.depth
        padded = (-(-side // windows.size) * windows.size / side) ** 2  # of windows that exceed the map
        linear, scores = (whole + (1 - whole) * padded * share for share in (1, (windows.size / side) ** 2))
        factors = (linear, scores, linear, 1, 1)
        block = (item._replace(flops=item.flops * factor) for item, factor in zip(part.block, factors, strict=True))
        part = replace(part, block=tuple(block))
    if config.frozen:  # it stands beside what FSDP shares out
        part = replace(part, block_parameters=0)
    images = device_rows(config.batch_size, devices) * 3.0 * size**2
    batch = {"images": images * (BATCHES + FLOAT32)}  # bytes, and the current batch's as numbers
    parts = part, head_part(config, tower.width, side)
    return [Phase(size, config.steps, config.batch_size, parts, batch=batch)], f"{CLASSES} classes"


def head_part(config: DenseConfig, width: int, side: int) -> Part:
    """Return the cost of a head on one map of side x side patches, measured on a head without weights."""
    settings, masks = config.head, isinstance(config, DetectorConfig) and config.masks and not config.class_agnostic
    kind, shape, classes = KINDS[type(settings)], asdict(settings), ("",) * CLASSES
    rest: dict[str, Any] = {"encoder": "", "weights": "", "layer": 0, "image_size": 1}
    info = HeadInfo(task=kind.task, head=shape, classes=classes, masks=masks, **rest)
    with torch.device("meta"):
        head, features = make_head(info, width), torch.empty(1, side, side, width)
    saved = dict[int, Tensor]()

    def save(tensor: Tensor) -> Tensor:
        return saved.setdefault(tensor.untyped_storage()._cdata, tensor)

    unpacked = torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor)
    with torch.device("meta"), FlopCounterMode(display=False) as counter, unpacked:
        flops, held = kind.cost(head, features)
    for parameter in head.parameters():
        saved.pop(parameter.untyped_storage()._cdata, None)
    held += sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) / 2  # in bfloat16
    parameters, product = parameter_count(head), Product(flops + counter.get_total_flops())
    return Part(parameters=parameters, trained=parameters, exit=(product,), inner=True, end_bytes=held)
