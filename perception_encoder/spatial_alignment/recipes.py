"""Recipes of spatial alignment: PE-Spatial-G as published, its smaller students, and the built-in model's."""

from __future__ import annotations

from dataclasses import replace

from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.registry import BUILTIN, MODELS
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.config import ValidationConfig, debug_loop
from perception_encoder.training.cost import BATCHES, BFLOAT16, FLOAT32, Phase, cut_tower, device_rows, tower_part
from perception_encoder.training.distributed import ParallelConfig
from perception_encoder.training.optimizer import OptimizerConfig

SAM = "facebook/sam2.1-hiera-large"
CORE_LAYER = 40  # 0-based: the paper's layer 41 of 50
SPATIAL, CORE = (
    {name.split("-")[2].lower(): name for name, entry in MODELS.items() if name.startswith(family) and entry.timm}
    for family in ("PE-Spatial", "PE-Core")
)
"""Models by size, such as "l14"."""


def spatial_g() -> SpatialConfig:
    """PE-Spatial-G as in the paper: PE-Core-G's layer 40 and SAM 2.1's masks as teachers, 300 million images at 448 px.

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
    return replace(
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


MASKS = 1024
"""Assumed number of masks per image from the mask teacher: SAM's, for a grid of 32x32 points."""


def plan_spatial(config: SpatialConfig, devices: int = 1) -> tuple[list[Phase], str]:
    """Return the run's one phase and its assumptions."""
    student = cut_tower(find_entry(config.model).vision, -1, config.image_size, config.layer_scale)
    parts, patches, width, masks = [tower_part(student)], student.grid**2, 0, MASKS if config.masks else 0
    if config.core_weight or config.pairs_weight:
        whole = find_entry(config.teacher or config.model).vision
        teacher = tower_part(cut_tower(whole, config.teacher_layer, student.grid * whole.patch_size), train=False)
        parts.append(replace(teacher, beside=FLOAT32 + BFLOAT16))
        width = whole.width
    sides = [masks, width * bool(config.pairs_weight)]  # both have similarities of all patches,
    losses = sum(2.0 * patches**2 * (2 * side + 3 * student.width) for side in sides if side)  # student's made twice
    rows = device_rows(config.batch_size, devices)
    batch = {
        "losses": float(rows * patches * (student.width + width + masks) * FLOAT32),
        "images": rows * 3.0 * student.image_size**2 * (BATCHES + FLOAT32),
    }
    assumed = "the mask teacher's passes are not counted: cache them with `pe data masks`" if masks else ""
    return [Phase(student.image_size, config.steps, config.batch_size, parts, losses, batch)], assumed
