"""Recipes of heads on a frozen encoder: depth, classes of pixels, objects."""

from __future__ import annotations

import dataclasses

from perception_encoder.dense_training.config import DenseConfig, DepthTrainingConfig, DetectorConfig, SegmenterConfig
from perception_encoder.models.registry import BUILTIN
from perception_encoder.train.config import debug_loop


def depth() -> DepthTrainingConfig:
    """Depth of each pixel, by a DPT head: images of the square's size or larger, never padded."""
    return DepthTrainingConfig(scales=(1.0, 2.0))


def segmenter() -> SegmenterConfig:
    """The class of each pixel, by a convolution over neighbouring patches."""
    return SegmenterConfig()


def detector() -> DetectorConfig:
    """Boxes and masks of objects, by Mask R-CNN over a simple feature pyramid."""
    return DetectorConfig()


def debug_dense(config: DenseConfig) -> DenseConfig:
    """Return the same task in four steps, on the built-in model."""
    return dataclasses.replace(debug_loop(config), encoder=BUILTIN, layer=-1, image_size=64, steps=4, batch_size=4)
