"""Contrastive image-text pretraining as a task of the training loop (section 2.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.pretraining.towers import Towers
from perception_encoder.train.distributed import gather

MAX_LOGIT_SCALE = 100.0  # appendix B.1.1


class ContrastiveTask:
    """Pull pictures and their captions together, push all others apart; pull masked pictures to the whole ones.

    Of a rank's part of a batch, the losses are its parts of the whole batch's.
    """

    def __init__(self, towers: Towers, mask_weight: float = 1.0) -> None:
        self.model: nn.Module = towers
        self.mask_weight = mask_weight
        self._left_out = 0

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """{"contrastive": …, "mask": …} (the second where the batch has masks), computed in float32."""
        self._left_out = batch.left_out
        images, texts, scale, mask = self.model(batch.pictures, batch.tokens, batch.masked, batch.masks)
        pictures, captions = batch.positives.shape
        with torch.autocast(images.device.type, enabled=False):
            contrastive = contrastive_loss(
                gather(F.normalize(images, dim=-1), pictures),
                gather(F.normalize(texts, dim=-1), captions),
                scale,
                batch.positives,
                batch.own_pictures,
                batch.own_tokens,
            )
        if mask is None:
            return {"contrastive": contrastive}
        return {"contrastive": contrastive, "mask": self.mask_weight * batch.masked_share * mask}

    @property
    def logit_scale(self) -> nn.Parameter:
        """The logarithm of the logit scale."""
        (found,) = (p for name, p in self.model.named_parameters() if name.endswith("logit_scale"))
        return found

    def report(self) -> dict[str, float]:
        """The logit scale, and how many samples could not be read so far, if any."""
        left_out = {"left_out": float(self._left_out)} if self._left_out else {}
        return {"logit_scale": round(self.logit_scale.exp().item(), 3), **left_out}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the logit scale at or below its maximum."""
        self.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))
