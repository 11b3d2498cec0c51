"""Train two towers by the contrastive loss and mask regularization, as a task of the training loop (section 2.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.pretraining.towers import Towers
from perception_encoder.training.distributed import gather
from perception_encoder.training.task import ImageTextTask
from perception_encoder.training.validation import Validation


class ContrastiveTask(ImageTextTask):
    """Pull images and their captions together, push all others apart; pull masked images to the whole ones.

    Of a rank's part of a batch, the losses are its parts of the whole batch's.
    """

    def __init__(self, towers: Towers, mask_weight: float = 1.0, validation: Validation | None = None) -> None:
        super().__init__(towers, validation)
        self.mask_weight = mask_weight

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Return {"contrastive": …, "mask": …} (the second if the batch has masks), computed in float32."""
        self.left_out = batch.left_out
        towers = self.model(batch.images, batch.tokens, batch.masked, batch.masks)
        captions = batch.image_positives.shape[1]
        with torch.autocast(towers.images.device.type, enabled=False):
            contrastive = contrastive_loss(
                gather(F.normalize(towers.images, dim=-1), len(batch)),
                gather(F.normalize(towers.texts, dim=-1), captions),
                towers.logit_scale,
                batch.image_positives,
                batch.text_positives,
                batch.own_images,
                batch.own_tokens,
            )
        if towers.mask_loss is None:
            return {"contrastive": contrastive}
        return {"contrastive": contrastive, "mask": self.mask_weight * batch.masked_share * towers.mask_loss}
