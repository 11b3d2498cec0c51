"""Task of spatial alignment: fit a student's tokens to a teacher's, and their similarities to a mask teacher's."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from perception_encoder.data.pairs import ImageBatch
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.losses.spatial import token_cosine_loss, token_similarity_loss
from perception_encoder.models.tower import Tower
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import to_float
from perception_encoder.runtime.layer_towers import LayerTowers
from perception_encoder.spatial_alignment.config import SpatialConfig
from perception_encoder.training.loop import Task, Validation


@dataclass(frozen=True, kw_only=True)
class SpatialBatch(ImageBatch):
    """A rank's share of a batch."""

    hidden: Bool[Tensor, "B N"] | None = None  # patches hidden from the student
    branches: Float[Tensor, "L 2 B"] | None = None  # factors of the student's residual branches
    masks: Float[Tensor, "M N P"] | None = None  # the mask teacher's tokens of the images with masks
    rows: Int[Tensor, " M"] | None = None  # rows of the images with masks
    mask_share: float = 1.0  # this rank's share of the batch's images with masks


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

    validation: Validation | None = None

    def __init__(self, student: Student, teacher: VisionTransformer | None, config: SpatialConfig) -> None:
        self.model, self.teacher, self.config = student, teacher, config

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


ACROSS, WITHIN = 0.5, 0.9
"""Neighbouring patches lie on two sides of an edge if the cosine of their mask tokens is below the first, on one side
if it is above the second; others are not scored."""
SHORT_SIDE = 240  # pixels of a tracked frame's short side


class SpatialValidation:
    """Scores a student on held-out images and videos.

    "loss": the weighted sum of the losses without hidden patches, and each loss by its name. "boundary", for images
    with masks: how often two neighbouring patches across an edge are less similar than two on one side of it (the area
    under the ROC curve, 0.5 by chance). "tracking": J&F on the videos, using the last layer.
    """

    higher_is_better = {"loss": False, "boundary": True, "tracking": True}  # noqa: RUF012 (a constant)

    def __init__(
        self,
        task: SpatialAlignmentTask,
        student: Student,
        batches: Sequence[SpatialBatch],
        grid: tuple[int, int],
        videos: Path | None = None,
    ) -> None:
        """`batches`: without hidden patches. `videos`: as `read_videos` returns them. Raises what that does."""
        self.task, self.student, self.batches, self.grid = task, student, list(batches), grid
        self.tracking = None if videos is None else TrackingEvaluator(read_videos(videos), SHORT_SIDE)

    def validate(self, metric: str) -> dict[str, float]:
        """Return the scores that the data allow."""
        totals: dict[str, float] = {}
        images, with_masks = 0, 0
        pairs: list[tuple[Tensor, Tensor]] = []
        device = next(self.student.parameters()).device
        for batch in self.batches:
            batch = batch.to(device)
            own_masks = 0 if batch.rows is None else len(batch.rows)
            for name, loss in self.task.losses(batch).items():
                totals[name] = totals.get(name, 0.0) + float(loss) * (own_masks if name == "masks" else len(batch))
            images, with_masks = images + len(batch), with_masks + own_masks
            if batch.masks is not None and batch.rows is not None:
                tokens, _ = self.student(to_float(batch.images[batch.rows]))
                pairs.append((neighbours(tokens, self.grid), neighbours(batch.masks, self.grid)))
        means = {name: total / max(1, with_masks if name == "masks" else images) for name, total in totals.items()}
        scores = {"loss": sum(means.values()) if images else float("nan"), **means}
        if pairs:
            cosines, same = (torch.cat([pair[part].flatten() for pair in pairs]) for part in (0, 1))
            scored = (same < ACROSS) | (same > WITHIN)
            scores["boundary"] = area_under_curve(-cosines[scored], same[scored] < ACROSS)
        if self.tracking is not None:
            vision = copy.deepcopy(self.student.vision)
            encoder = LayerFeatures(LayerTowers("student", Tower.of(vision), device))
            scores["tracking"] = next(self.tracking.run(LayerSource(encoder))).value
        return scores


def neighbours(tokens: Float[Tensor, "B N D"], grid: tuple[int, int]) -> Float[Tensor, "B E"]:
    """Return the cosines of all patches to their right, then to their lower neighbours."""
    maps = F.normalize(tokens.float(), dim=-1).unflatten(1, grid)
    right = (maps[:, :, :-1] * maps[:, :, 1:]).sum(-1)
    lower = (maps[:, :-1] * maps[:, 1:]).sum(-1)
    return torch.cat([right.flatten(1), lower.flatten(1)], dim=1)


def area_under_curve(scores: Float[Tensor, " E"], positive: Tensor) -> float:
    """Return how often a positive scores higher than a negative, with ties as half; NaN if either kind is missing."""
    count, others = int(positive.sum()), int((~positive).sum())
    if not count or not others:
        return float("nan")
    _, order, sizes = scores.unique(return_inverse=True, return_counts=True)
    ends = sizes.cumsum(0).double()
    ranks = (ends - (sizes - 1) / 2)[order]  # the mean rank of equal scores, from 1
    return float((ranks[positive].sum() - count * (count + 1) / 2) / (count * others))
