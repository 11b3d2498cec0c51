"""Task of spatial alignment: fit a student's tokens to a teacher's, and their similarities to a mask teacher's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perception_encoder.data.pairs import ImageBatch
from perception_encoder.losses.spatial import token_cosine_loss, token_similarity_loss
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import to_float
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.task import Task, Validation


@dataclass(frozen=True, kw_only=True)
class SpatialBatch(ImageBatch):
    """A rank's share of a batch."""

    hidden: Bool[Tensor, "B N"] | None = None
    """Patches hidden from the student."""
    branches: Float[Tensor, "L 2 B"] | None = None
    """Factors of the student's residual branches."""
    masks: Float[Tensor, "M N P"] | None = None
    """The mask teacher's tokens of the images with masks."""
    rows: Int[Tensor, " M"] | None = None
    """Rows of the images with masks."""
    mask_share: float = 1.0
    """This rank's share of the batch's images with masks."""


class Student(nn.Module):
    """The trained tower; every pass uses `forward` so that DDP and FSDP can wrap it."""

    hidden: Tensor

    def __init__(self, vision: VisionTransformer, teacher_width: int) -> None:
        """`teacher_width`: if it differs from the tower's, a linear map is trained, and dropped afterwards."""
        super().__init__()
        width = vision.config.width
        self.vision = vision
        self.to_teacher = nn.Linear(width, teacher_width) if teacher_width != width else nn.Identity()
        self.register_buffer("hidden", torch.zeros(width), persistent=False)

    def forward(
        self,
        images: Float[Tensor, "B 3 S S"],
        hidden: Bool[Tensor, "B N"] | None = None,
        branches: Float[Tensor, "L 2 B"] | None = None,
    ) -> tuple[Float[Tensor, "B N D"], Float[Tensor, "B N E"]]:
        """Return the last layer's patch tokens, and the tokens to compare with the teacher's."""
        tokens = self.vision.forward_features(
            images, norm=False, mask=hidden, mask_token=self.hidden, branches=branches
        )
        tokens = tokens[:, self.vision.num_prefix_tokens :]
        return tokens, self.to_teacher(tokens)


class SpatialAlignmentTask(Task):
    """Minimise the cosine loss to the teacher and the similarity losses, over all tokens, including hidden ones.

    `teacher`: a frozen tower, cut at the layer to learn from; None if no loss needs it.
    """

    def __init__(
        self,
        student: Student,
        teacher: VisionTransformer | None,
        config: SpatialConfig,
        validation: Validation | None = None,
    ) -> None:
        self.model, self.teacher, self.config, self.validation = student, teacher, config, validation

    def losses(self, batch: SpatialBatch) -> dict[str, Tensor]:
        """Return the weighted losses {"core": …, "pairs": …, "masks": …}: this rank's shares of the batch's means."""
        config, images = self.config, to_float(batch.images)
        tokens, compared = self.model(images, batch.hidden, batch.branches)
        losses, taught = {}, None if self.teacher is None else self._teach(self.teacher, images)
        with torch.autocast(images.device.type, enabled=False):
            if config.core_weight and taught is not None:
                losses["core"] = config.core_weight * batch.share * token_cosine_loss(compared, taught)
            if config.pairs_weight and taught is not None:
                of_pairs = token_similarity_loss(tokens, taught, temperature=None)
                losses["pairs"] = config.pairs_weight * batch.share * of_pairs
            if config.masks and config.masks_weight:
                losses["masks"] = config.masks_weight * batch.mask_share * self._mask_loss(tokens, batch)
        return losses

    @torch.no_grad()
    def _teach(self, teacher: VisionTransformer, images: Tensor) -> Tensor:
        size = teacher.config.image_size
        if images.shape[-1] != size:
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        return teacher.forward_features(images, norm=False)[:, teacher.num_prefix_tokens :]

    def _mask_loss(self, tokens: Tensor, batch: SpatialBatch) -> Tensor:
        if batch.masks is None or batch.rows is None:
            return tokens.sum() * 0
        return token_similarity_loss(tokens[batch.rows], batch.masks, self.config.temperature)
