"""Configure a spatial alignment: the student, its two teachers, and what is hidden from it (section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.losses.spatial import TEMPERATURE
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.training.config import TrainingConfig, check_least
from perception_encoder.training.optimizer import OptimizerConfig
from perception_encoder.training.validation import ValidationConfig


@dataclass(frozen=True, kw_only=True)
class BlockMasking:
    """Which blocks of patches are hidden from the student, as MaskFeat does (appendix B.3).

    What is hidden is the zero vector: LayerScale is all that the paper adds to the parameters, so the mask token is not
    learned, and a hidden patch keeps only its position.
    """

    share: float = 0.75
    """Of the blocks."""
    block: int = 2
    """Patches along a block's side; blocks at the right and lower edges are smaller if the grid is not a multiple."""

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise ConfigError(f"masking.share is {self.share}; it must be at least 0 and below 1")
        if self.block < 1:
            raise ConfigError(f"masking.block is {self.block}; it must be at least 1")

    def draw(self, images: int, grid: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "B P"]:
        """What to hide of each image; as many blocks of each, at random."""
        rows, columns = (-(-side // self.block) for side in grid)
        order = torch.rand(images, rows * columns, generator=generator).argsort(dim=1)
        hidden = order < round(self.share * rows * columns)
        patches = hidden.unflatten(1, (rows, columns)).repeat_interleave(self.block, 1).repeat_interleave(self.block, 2)
        return patches[:, : grid[0], : grid[1]].flatten(1)


@dataclass(frozen=True, kw_only=True)
class SpatialConfig(TrainingConfig):
    """All that decides a spatial alignment's result, but the data itself."""

    model: str = BUILTIN
    """Name, alias or path of the model whose vision tower is the student, with all its layers but without pooling."""
    teacher: str | None = None
    """Model whose tokens the student's are drawn to, by default a frozen copy of the student. If it is wider or
    narrower, a linear map of the student's tokens, dropped afterwards, is drawn to them."""
    teacher_layer: int = -1
    """The teacher's layer, 0-based, negative from the end."""
    core_weight: float = 1.0
    """Of the cosine loss to the teacher's tokens; 0 leaves it out."""
    pairs_weight: float = 0.0
    """Of the loss to the similarities of the teacher's own tokens, by which smaller models are distilled."""
    masks: str | None = None
    """Mask teacher: "scenes", the masks of rendered scenes; a SAM 2.1, a directory or its name on the hub; or a file
    that `pe data masks` wrote. None leaves the loss out."""
    masks_weight: float = 1.0
    """Of the loss to the mask teacher's similarities; 0 leaves it out."""
    temperature: float = TEMPERATURE
    """Of the mask teacher's similarities."""
    image_size: int | None = None
    """Pixels of an image's side, by default the model's own."""
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """All models see the same augmented image. The paper tells no crop scale: the default is that of pretraining."""
    copies: int = 0
    """The number of augmentations of each image, so that the teachers' outputs can be cached; 0 draws new ones."""
    masking: BlockMasking | None = field(default_factory=BlockMasking)
    """Patches that are hidden from the student."""
    drop_path: float = 0.4
    """Probability that a residual branch of the student is left out for a sample."""
    layer_scale: float | None = 0.1
    """LayerScale that is put into the tower; features are the same at first. None, and of a tower that has it, none."""
    videos: str | None = None
    """Videos with masks, as `pe eval tracking` reads them, that are tracked at each validation."""
    steps: int = 1_000
    """Optimizer steps of the whole run."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-4))
    validation: ValidationConfig | None = field(default_factory=ValidationConfig)
    half: bool = True
    """Write float16 weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_least(self, {"steps": 1, "copies": 0, "core_weight": 0, "pairs_weight": 0, "masks_weight": 0})
        if not 0 <= self.drop_path < 1:
            raise ConfigError(f"drop_path is {self.drop_path}; it must be at least 0 and below 1")
        if not (self.core_weight or self.pairs_weight or (self.masks and self.masks_weight)):
            raise ConfigError("no loss has a weight; set core_weight, pairs_weight or masks")
