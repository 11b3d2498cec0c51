"""Score a student during training: its losses, how well its features follow edges, and tracking."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.tower import Tower
from perception_encoder.preprocess.image import to_float
from perception_encoder.spatial_alignment.task import SpatialAlignmentTask, SpatialBatch, Student

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
            encoder = LayerFeatures("student", Tower.of(vision), device)
            scores["tracking"] = next(self.tracking.run(encoder.at(vision.config.depth - 1))).value
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
