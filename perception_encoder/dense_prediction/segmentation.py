"""Segment images with a linear head over one layer's features: class scores per patch, resized to pixels bilinearly.

Its targets are the shares of the classes among a patch's pixels: for a patch of one class, the loss is the pixels'
cross-entropy. The paper's head (appendix B.3) has a linear and a convolutional layer, this one has either.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from perception_encoder.dense_prediction.head_fitting import FitConfig, Maps, Standardize, fit_head, resized_maps, take
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.initialization import drawn_from
from perception_encoder.progress import Track, untracked
from perception_encoder.records import Checked, Count

Labels = Callable[[int], np.ndarray]
"""Returns the classes (H, W) of an item's pixels by index, negative where ignored."""

_FINE = 4  # label points along a patch's side


@dataclass(frozen=True, kw_only=True)
class SegmentationHeadConfig(Checked):
    """Size of the head."""

    kernel: Count = 1
    """Kernel size in patches: 1 is a linear probe, 3 includes the neighbours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kernel % 2 == 0:
            raise ConfigError(f"kernel is {self.kernel}; it must be odd")


@dataclass(frozen=True, kw_only=True)
class SegmentationConfig(SegmentationHeadConfig):
    """The head, and how to fit it to features."""

    fit: FitConfig = field(default_factory=FitConfig)


class SegmentationHead(nn.Module):
    """Features (B, h, w, D) to class scores (B, K, h, w)."""

    def __init__(self, width: int, classes: int, kernel: int) -> None:
        super().__init__()
        self.standardize = Standardize(width)
        self.score = nn.Conv2d(width, classes, kernel, padding=kernel // 2)

    def forward(self, features: Float[Tensor, "B h w D"]) -> Float[Tensor, "B K h w"]:
        return self.score(self.standardize(features))

    @torch.no_grad()
    def predict(self, features: Float[Tensor, "B h w D"], size: tuple[int, int]) -> Int[Tensor, "B H W"]:
        """Return the most probable class of each pixel at a size (height, width)."""
        return F.interpolate(self(features), size, mode="bilinear").argmax(dim=1)


def fit_segmentation(
    features: Maps, labels: Labels, classes: int, config: SegmentationConfig | None = None, track: Track = untracked
) -> SegmentationHead:
    """Fit a head on features and labels; DataError if the labels have fewer than two classes."""
    config = config or SegmentationConfig()
    with drawn_from(torch.Generator().manual_seed(config.fit.seed)):
        head = SegmentationHead(features.shape[-1], classes, config.kernel)
    head.standardize.measure(features)
    size = _FINE * features.shape[1], _FINE * features.shape[2]
    targets = resized_maps(labels, len(features), size, torch.int16)
    if len(seen := targets[targets >= 0].unique()) < 2:
        raise DataError(f"the training images have {len(seen)} class; at least 2 are needed")

    def loss(rows: np.ndarray) -> Tensor:
        return class_share_loss(head(take(features, rows)), targets[torch.from_numpy(rows)].long())

    fit_head(head, loss, len(features), config.fit, "fitting a segmentation head", track)
    return head


def class_share_loss(scores: Float[Tensor, "B K h w"], labels: Int[Tensor, "B H W"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of patches, whose target probabilities are the classes' shares of their pixels.

    Labels are sampled at 4 by 4 points of each patch. Negative ones are ignored; a patch of them has a loss of 0.
    """
    h, w = scores.shape[-2:]
    fine = F.interpolate(labels[:, None].float(), (_FINE * h, _FINE * w), mode="nearest-exact")[:, 0].long()
    shares = F.one_hot(fine.clamp_min(0), scores.shape[1]).float() * (fine >= 0)[..., None]
    shares = F.avg_pool2d(shares.permute(0, 3, 1, 2), _FINE)  # (B, K, h, w)
    return -(shares * scores.float().log_softmax(dim=1)).sum(dim=1).mean()
