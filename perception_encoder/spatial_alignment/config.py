"""Settings of a spatial alignment: the student, its two teachers, and the hidden patches (section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from perception_encoder.errors import ConfigError
from perception_encoder.losses.spatial import TEMPERATURE
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.records import Checked, Count, CountOrZero, Layer, Positive, ShareBelowOne, Weight
from perception_encoder.training.config import TrainingConfig, ValidationConfig
from perception_encoder.training.optimizer import OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class BlockMasking(Checked):
    """Hides blocks of patches from the student, like MaskFeat (appendix B.3).

    A hidden patch is replaced by the zero vector and keeps only its position: the paper adds no parameters but
    LayerScale, so there is no learned mask token.
    """

    share: ShareBelowOne = 0.75
    """Share of hidden blocks."""
    block: Count = 2
    """Side of a block in patches; blocks at the right and lower edges are smaller if the grid is not a multiple."""

    def draw(self, images: int, grid: tuple[int, int], generator: torch.Generator) -> Bool[Tensor, "B P"]:
        """Return random patches to hide, the same number of blocks in each image."""
        rows, columns = (-(-side // self.block) for side in grid)
        order = torch.rand(images, rows * columns, generator=generator).argsort(dim=1)
        hidden = order < round(self.share * rows * columns)
        patches = hidden.unflatten(1, (rows, columns)).repeat_interleave(self.block, 1).repeat_interleave(self.block, 2)
        return patches[:, : grid[0], : grid[1]].flatten(1)


@dataclass(frozen=True, kw_only=True)
class SpatialConfig(TrainingConfig):
    """Everything that decides the result of a spatial alignment, except the data."""

    example: ClassVar[str] = "pe features IMAGE --layer -1 --bare -o features.png -m {weights}"

    model: str = BUILTIN
    """Name, alias or path of the model whose vision tower is the student, with all its layers but without pooling."""
    teacher: str | None = None
    """Model whose tokens the student learns to match, by default a frozen copy of the student. If its width differs,
    a linear map of the student's tokens is trained, and dropped afterwards."""
    teacher_layer: Layer = -1
    """The teacher's layer, 0-based, negative from the end."""
    core_weight: Weight = 1.0
    """Weight of the cosine loss to the teacher's tokens; 0 turns it off."""
    pairs_weight: Weight = 0.0
    """Weight of the loss to the similarities of the teacher's tokens, used to distil into smaller models."""
    masks: str | None = None
    """Mask teacher: "scenes", the masks in the data; a SAM 2.1, by directory or name on the hub; or a file that
    `pe data masks` wrote. None turns the loss off."""
    masks_weight: Weight = 1.0
    """Weight of the loss to the mask teacher's similarities; 0 turns it off."""
    temperature: Positive = TEMPERATURE
    """Temperature of the mask teacher's similarities."""
    image_size: Count | None = None
    """Image size in pixels, by default the model's."""
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    """All models see the same augmented image. The paper gives no crop scale: the default is that of pretraining."""
    copies: CountOrZero = 0
    """Fixed number of augmentations of each image, so that the teachers' outputs can be cached; 0 draws new ones."""
    masking: BlockMasking | None = field(default_factory=BlockMasking)
    """Patches hidden from the student."""
    drop_path: ShareBelowOne = 0.4
    """Probability of dropping a residual branch of the student for a sample."""
    layer_scale: Positive | None = 0.1
    """Initial LayerScale to add to a tower that has none; its features start unchanged. None adds none."""
    videos: str | None = None
    """Videos with masks, as `pe eval tracking` reads them, to track at each validation."""
    steps: Count = 1_000
    """Optimizer steps of the whole run."""
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr=5e-4))
    validation: ValidationConfig | None = field(default_factory=ValidationConfig)
    half: bool = True
    """Write float16 weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.core_weight or self.pairs_weight or (self.masks and self.masks_weight)):
            raise ConfigError("all losses are off; set core_weight, pairs_weight or masks")
