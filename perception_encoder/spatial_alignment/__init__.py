"""Spatial alignment (section 5): the last layer learns to follow the edges of objects without forgetting."""

from __future__ import annotations

from perception_encoder.training.stage import Stage

ROWS = {
    "spatial_builtin": ("the built-in model on your images with masks: half an hour on 2 cores", "spatial_builtin"),
    "spatial_g14": ("PE-Spatial-G: PE-Core-G, its own layer 40 (from 0) and SAM 2.1, 300 million images", "spatial_g"),
    "spatial_l14": ("PE-Spatial-G into PE-Spatial-L, 300 million images", "distill_spatial", "l14"),
    "spatial_b16": ("PE-Spatial-G into PE-Spatial-B, 300 million images", "distill_spatial", "b16"),
    "spatial_s16": ("PE-Spatial-G into PE-Spatial-S, 300 million images", "distill_spatial", "s16"),
    "spatial_t16": ("PE-Spatial-G into PE-Spatial-T, 300 million images", "distill_spatial", "t16"),
}
STAGE = Stage.deferred(
    "spatial", __name__, ROWS, run="run.align_spatially", plan="recipes.plan_spatial", debug="recipes.debug_spatial"
)
