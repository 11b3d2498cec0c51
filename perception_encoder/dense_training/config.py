"""Configure the training of a head for depth, classes of pixels or objects, on a frozen or finetuned encoder."""

from __future__ import annotations

from dataclasses import dataclass, field

from perception_encoder.datasets.rgbd import MILLIMETRES
from perception_encoder.dense_prediction.dense_model import HeadConfig, WindowConfig
from perception_encoder.dense_prediction.depth import DepthHeadConfig
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectorHeadConfig
from perception_encoder.dense_prediction.segmentation import SegmentationHeadConfig
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import BUILTIN
from perception_encoder.training.config import TrainingConfig, check_least
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class DenseConfig(TrainingConfig):
    """What the three tasks share; `--data` has a training and a test set, which is validated on."""

    head: HeadConfig
    """The head's settings."""
    encoder: str = BUILTIN
    """Any model, `timm:NAME` and `hf:NAME` too."""
    initial: str | None = None
    """A head's file, or a published detector, to go on from: what fits is loaded, the rest, such as other classes,
    begins with random weights. A frozen encoder stays as it is."""
    layer: int = -1
    """Whose features the head reads, 0-based, negative from the end."""
    frozen: bool = True
    """Train the head alone; else the encoder up to the layer, too."""
    windows: WindowConfig | None = None
    """Let most of the encoder's blocks attend within windows, as ViTDet does for large images."""
    drop_path: float = 0.0
    """Stochastic depth of a finetuned encoder of this package: of its last block, from 0 for the first."""
    image_size: int = 224
    """Pixels of the square that is trained on, and of an image's longer side afterwards."""
    scales: tuple[float, float] = (0.5, 2.0)
    """Large-scale jitter: an image that fits the square is scaled by a factor between these, then cropped anywhere, or
    padded to the right and below."""
    flip: float = 0.5
    """Share of images that are mirrored."""
    steps: int = 2_000
    """Optimizer steps of the whole run."""
    batch_size: int = 16
    warmup: int = 50
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adamw", lr=1e-3, betas=(0.9, 0.999), weight_decay=0.05)
    )
    validation: ValidationConfig | None = field(default_factory=lambda: ValidationConfig(every=400, size=200))
    half: bool = True
    """Write float16 weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"steps": 1, "image_size": 1, "flip": 0})
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; it must be at least 0 and below 1")
        if self.frozen and (self.drop_path or self.optimizer.layer_decay is not None):
            raise ConfigError("drop_path and optimizer.layer_decay are for a finetuned encoder; set frozen=false")
        if not 0 < self.scales[0] <= self.scales[1]:
            raise ConfigError(f"scales are {self.scales}; they must be above 0, the lesser first")


@dataclass(frozen=True, kw_only=True)
class DepthTrainingConfig(DenseConfig):
    """Depth of each pixel; `--data` as `pe eval depth` reads it."""

    head: DepthHeadConfig = field(default_factory=lambda: DepthHeadConfig(channels=64))
    per_metre: float = MILLIMETRES
    """Units of the stored integers in a metre."""


@dataclass(frozen=True, kw_only=True)
class SegmenterConfig(DenseConfig):
    """The class of each pixel; `--data` as `pe eval segmentation` reads it."""

    head: SegmentationHeadConfig = field(default_factory=lambda: SegmentationHeadConfig(kernel=3))
    any_class: bool = False
    """Of rendered scenes: two classes alone, `background` and `object`."""


@dataclass(frozen=True, kw_only=True)
class DetectorConfig(DenseConfig):
    """Boxes and masks of objects; `--data` as `pe eval detection` reads it: COCO, LVIS, Objects365, scenes."""

    head: DetectorHeadConfig | DetrHeadConfig = field(
        default_factory=lambda: DetectorHeadConfig(channels=128, hidden=512, regions=128)
    )
    """Mask R-CNN's, or DETA's, which has no masks."""
    masks: bool = True
    """Learn masks, if all annotations have them."""
    class_agnostic: bool = False
    """Learn objects as one class, without masks."""
    repeat_threshold: float | None = None
    """Show images of rarer classes more often: those of a class in less than this share of the images (LVIS: 0.001)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.masks and isinstance(self.head, DetrHeadConfig):
            raise ConfigError("a DETR has no masks; set masks=false")
