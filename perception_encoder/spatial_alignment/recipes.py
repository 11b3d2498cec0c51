"""Recipes of spatial alignment: PE-Spatial-G as published, its smaller students, and the built-in model's."""

from __future__ import annotations

import dataclasses

from perception_encoder.models.registry import BUILTIN, MODELS
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.config import debug_loop
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.task import ValidationConfig

SAM = "facebook/sam2.1-hiera-large"
CORE_LAYER = 40
"""0-based: the paper's layer 41 of 50."""
SPATIAL, CORE = (
    {name.split("-")[2].lower(): name for name, entry in MODELS.items() if name.startswith(family) and entry.timm}
    for family in ("PE-Spatial", "PE-Core")
)
"""Models by size, such as "l14"."""


def spatial_g() -> SpatialConfig:
    """PE-Spatial-G as in the paper: PE-Core-G's layer 41 and SAM 2.1's masks as teachers, 300 million images at 448 px.

    The paper leaves open the crop scale of the augmentation (here that of pretraining, 0.08 to 1) and what replaces a
    hidden patch (here the zero vector). One difference: masks are averaged over patches, not interpolated
    (`mask_tokens`).
    """
    return SpatialConfig(
        model=CORE["g14"],
        teacher_layer=CORE_LAYER,
        masks=SAM,
        image_size=448,
        steps=24_000,
        batch_size=12_288,
        warmup=0,
        parallel=ParallelConfig(kind="fsdp", checkpointing=True),
        checkpoint_every=500,
        half=False,
    )


def distill_spatial(size: str) -> SpatialConfig:
    """PE-Spatial-G into L, B, S or T ("l14", "b16", "s16", "t16"): its tokens and their similarities.

    The paper only names the two losses; here all patches are visible, and the rest is as for G.
    """
    return SpatialConfig(
        model=CORE[size],
        teacher=SPATIAL["g14"],
        pairs_weight=1.0,
        image_size=MODELS[SPATIAL[size]].vision.image_size,
        masking=None,
        drop_path=0.0,
        layer_scale=None,
        steps=24_000,
        batch_size=12_288,
        warmup=0,
        parallel=ParallelConfig(kind="fsdp"),
        checkpoint_every=500,
        half=False,
    )


def spatial_builtin() -> SpatialConfig:
    """The built-in model on rendered scenes with known masks, and on photographs.

    Nothing is hidden: in 200 steps with three quarters hidden, the loss of the masks fell half as far.
    """
    return SpatialConfig(
        model=BUILTIN,
        teacher_layer=8,
        masks="scenes",
        image_size=224,
        augmentation=Augmentation(scale=(0.3, 1.0)),
        masking=None,
        drop_path=0.1,
        steps=2_000,
        batch_size=32,
        warmup=50,
        optimizer=OptimizerConfig(lr=2e-3),
        validation=ValidationConfig(every=1_000, share=0.01, size=200),
    )


def debug_spatial(config: SpatialConfig) -> SpatialConfig:
    """Return the losses to the teacher in four steps of the built-in model; masks would need scenes or SAM."""
    return dataclasses.replace(
        debug_loop(config),
        model=BUILTIN,
        teacher=None if config.teacher is None else BUILTIN,
        teacher_layer=-1,
        masks=None,
        image_size=64,
        videos=None,
        steps=4,
        batch_size=4,
    )
