"""Settings for training a head for depth, segmentation or detection on a frozen or finetuned encoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from perception_encoder.dense_prediction.dense_model import HeadConfig
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.segmentation import SegmentationHeadConfig
from perception_encoder.dense_prediction.vitdet import WindowConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import BUILTIN
from perception_encoder.records import Count, CountOrZero, Layer, Positive, Share, ShareBelowOne, check_ordered
from perception_encoder.training.config import TrainingConfig, ValidationConfig
from perception_encoder.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class DenseConfig(TrainingConfig):
    """Settings that the three tasks share; `--data` has a training and a test set, which serves for validation."""

    head: HeadConfig
    """The head's settings."""
    encoder: str = BUILTIN
    """Any model, including `timm:NAME` and `hf:NAME`."""
    initial: str | None = None
    """Head's file or run, or published detector, to start from: weights that fit are loaded, the rest, such as those
    of other classes, are random. A frozen encoder keeps its weights."""
    layer: Layer = -1
    """Layer that the head reads, 0-based, negative from the end."""
    frozen: bool = True
    """Train only the head; otherwise also the encoder up to the layer."""
    windows: WindowConfig | None = None
    """Let most of the encoder's blocks attend within windows, as ViTDet does for large images."""
    drop_path: ShareBelowOne = 0.0
    """Stochastic depth of a finetuned encoder of this package: the rate of its last block, rising from 0."""
    image_size: Count = 224
    """Side of the training square in pixels, and longer side of an image at inference."""
    scales: tuple[Positive, Positive] | None = (0.5, 2.0)
    """Large-scale jitter: an image is fitted to the square, scaled by a factor between these, then cropped at random or
    padded to the right and below. null: DETA's augmentation: half the images whole, with short sides from 480 pixels;
    of the others, scaled to a short side of 400 to 600, a crop of 384 to 600, enlarged to the square."""
    flip: Share = 0.5
    """Probability of mirroring an image."""
    steps: Count = 2_000
    """Optimizer steps of the whole run."""
    batch_size: Count = 16
    warmup: CountOrZero = 50
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05)
    )
    validation: ValidationConfig | None = field(default_factory=lambda: ValidationConfig(every=400, size=200))
    half: bool = True
    """Write float16 weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frozen and (self.drop_path or self.optimizer.layer_decay is not None):
            raise ConfigError("drop_path and optimizer.layer_decay need a finetuned encoder; set frozen=false")
        if self.scales is not None:
            check_ordered(self, "scales")


@dataclass(frozen=True, kw_only=True)
class DepthTrainingConfig(DenseConfig):
    """Depth of each pixel; `--data` as `pe eval depth` reads it."""

    example: ClassVar[str] = "pe depth IMAGE --head {weights} -o depths"

    head: DepthHeadConfig = field(default_factory=lambda: DepthHeadConfig(channels=64))
    per_metre: Positive = 1000.0
    """Depth units per metre in the files."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(DenseConfig):
    """A class for each pixel; `--data` as `pe eval segmentation` reads it."""

    example: ClassVar[str] = "pe segment IMAGE --head {weights} -o segmented.png"

    head: SegmentationHeadConfig = field(default_factory=lambda: SegmentationHeadConfig(kernel=3))


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(DenseConfig):
    """Boxes and masks of objects; `--data` as `pe eval detection` reads it: COCO, LVIS, Objects365, YOLO's."""

    example: ClassVar[str] = "pe detect IMAGE --head {weights} -o detected"

    head: DetectorHeadConfig | DetrHeadConfig = field(
        default_factory=lambda: DetectorHeadConfig(channels=128, hidden=512, regions=128)
    )
    """Mask R-CNN's, or DETA's, which has no masks."""
    masks: bool = True
    """Train masks if all annotations have them."""
    class_agnostic: bool = False
    """Train one class of objects, without masks."""
    repeat_threshold: Share | None = None
    """Repeat images with a class that occurs in less than this share of the images (LVIS: 0.001)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks and isinstance(self.head, DetrHeadConfig):
            raise ConfigError("a DETR has no masks; set masks=false")
