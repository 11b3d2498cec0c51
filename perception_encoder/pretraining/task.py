"""Contrastive image-text pretraining as a task of the training loop (section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.train.distributed import gather
from perception_encoder.train.image_text_task import ImageTextTask


class ContrastiveTask(ImageTextTask):
    """Pull pictures and their captions together, push all others apart; pull masked pictures to the whole ones.

    `towers`: a `Towers`, or what is called as one is. Of a rank's part of a batch, the losses are its parts of the
    whole batch's.
    """

    def __init__(self, towers: nn.Module, mask_weight: float = 1.0) -> None:
        super().__init__(towers)
        self.mask_weight = mask_weight

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """{"contrastive": …, "mask": …} (the second where the batch has masks), computed in float32."""
        self.left_out = batch.left_out
        images, texts, scale, mask = self.model(batch.pictures, batch.tokens, batch.masked, batch.masks)
        captions = batch.image_positives.shape[1]
        with torch.autocast(images.device.type, enabled=False):
            contrastive = contrastive_loss(
                gather(F.normalize(images, dim=-1), len(batch)),
                gather(F.normalize(texts, dim=-1), captions),
                scale,
                batch.image_positives,
                batch.text_positives,
                batch.own_pictures,
                batch.own_tokens,
            )
        if mask is None:
            return {"contrastive": contrastive}
        return {"contrastive": contrastive, "mask": self.mask_weight * batch.masked_share * mask}
