"""Box and mask heads for datasets such as LVIS, with many classes, and annotations of only some in each image.

Classes are scored by sigmoids, and only the classes that a batch shows and some drawn others are learned from: the
federated loss of Zhou et al. (2021), with which ViTDet is trained on LVIS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

PRIOR = 0.01
"""Score of every class at first, as of focal losses."""
SMALLEST = 1e-2
"""Pixels of a box's side, as in torchvision."""


class FederatedHeads(nn.Module):
    """Mixed into torchvision's `RoIHeads`: sigmoids; class 0, the background, is what no class scores."""

    class_weights: Tensor
    sampled: int
    box_predictor: Any
    box_coder: Any
    score_thresh: float
    nms_thresh: float
    detections_per_img: int

    def _remember(self, module: Any, inputs: Any, outputs: tuple[Tensor, Tensor]) -> None:
        self._logits = outputs[0]

    def select_training_samples(self, proposals: list[Tensor], targets: Any) -> Any:
        """Choose the regions that are learned from: see torchvision."""
        chosen = super().select_training_samples(proposals, targets)  # type: ignore[misc]
        self._labels = torch.cat(chosen[2])
        return chosen

    def forward(self, features: Any, proposals: Any, image_shapes: Any, targets: Any = None) -> Any:
        """Return detections and losses: see torchvision."""
        detections, losses = super().forward(features, proposals, image_shapes, targets)
        if self.training:
            losses["loss_classifier"] = federated_loss(self._logits, self._labels, self.class_weights, self.sampled)
        self._logits = self._labels = torch.empty(0)
        return detections, losses

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return boxes, scores and labels of each image; a region may be of several classes."""
        counts = [len(each) for each in proposals]
        boxes = self.box_coder.decode(box_regression, proposals).split(counts)  # (n, 1 + K, 4) an image
        scores = class_logits.sigmoid().split(counts)
        results = [self._best(*each) for each in zip(boxes, scores, image_shapes, strict=True)]
        return [each[0] for each in results], [each[1] for each in results], [each[2] for each in results]

    def _best(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

        region, label = torch.nonzero(scores[:, 1:] > self.score_thresh, as_tuple=True)
        own, score = clip_boxes_to_image(boxes[region, label + 1], size), scores[region, label + 1]
        large = remove_small_boxes(own, SMALLEST)
        own, score, label = own[large], score[large], label[large] + 1
        best = batched_nms(own, score, label, self.nms_thresh)[: self.detections_per_img]
        return own[best], score[best], label[best]


def federate(heads: Any, classes: int, sampled: int) -> None:
    """Let torchvision's `RoIHeads` learn some classes of each batch, in place. `sampled`: how many, at least."""
    heads.__class__ = type("FederatedRoIHeads", (FederatedHeads, type(heads)), {})
    heads.sampled = sampled
    heads.register_buffer("class_weights", torch.ones(classes))
    heads._logits, heads._labels = torch.empty(0), torch.empty(0)
    heads.box_predictor.register_forward_hook(heads._remember)
    nn.init.constant_(heads.box_predictor.cls_score.bias, -math.log((1 - PRIOR) / PRIOR))


def federated_loss(
    logits: Float[Tensor, "R K1"], labels: Int[Tensor, " R"], weights: Float[Tensor, " K"], sampled: int
) -> Float[Tensor, ""]:
    """Return the binary cross-entropy of the classes that are looked at, summed over them, a mean over regions.

    `logits`: of the background, which is not used, and of the classes; `labels`: 0 is background. The classes are those
    of the labels, and if they are fewer than `sampled`, others drawn in proportion to `weights`, by torch's generator.
    """
    present = labels[labels > 0].unique() - 1
    looked_at = torch.zeros_like(weights, dtype=torch.bool)
    looked_at[present] = True
    rest = torch.where(looked_at, 0.0, weights)
    missing = min(sampled - len(present), int((rest > 0).sum()))
    if missing > 0:
        looked_at[torch.multinomial(rest, missing)] = True
    truth = F.one_hot(labels, logits.shape[1])[:, 1:].to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits[:, 1:].float(), truth.float(), reduction="none")
    return (losses * looked_at).sum() / max(1, len(labels))


def class_frequencies(labels: Sequence[Int[Tensor, " m"]], classes: int) -> Float[Tensor, " K"]:
    """Return the share of images that show each class; `labels`: of each image's objects, from 1."""
    counts = torch.zeros(classes)
    for own in labels:
        counts[own.unique() - 1] += 1
    return counts / max(1, len(labels))


def repeat_factors(
    labels: Sequence[Int[Tensor, " m"]], frequencies: Float[Tensor, " K"], threshold: float
) -> Float[Tensor, " n"]:
    """Return how often each image is shown in an epoch: √(threshold / frequency) of its rarest class, at least 1.

    Gupta et al., "LVIS", 2019.
    """
    factors = (threshold / frequencies.clamp_min(1e-12)).sqrt().clamp_min(1.0)
    return torch.stack([factors[own.unique() - 1].max() if len(own) else torch.tensor(1.0) for own in labels])
