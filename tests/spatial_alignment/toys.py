"""A run of four steps on scenes."""

from __future__ import annotations

from perception_encoder.spatial_alignment.config import SpatialConfig

CONFIG = SpatialConfig(
    masks="scenes",
    image_size=64,
    steps=4,
    batch_size=4,
    warmup=0,
    log_every=1,
    checkpoint_every=2,
    teacher_layer=8,
    validation=None,
    half=False,
)
