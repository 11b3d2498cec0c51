"""Contrastive image-text pretraining as a task of the training loop (section 2.1)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.models.clip import CLIP
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import trim

MAX_LOGIT_SCALE = 100.0  # appendix B.1.1
LENGTH_GROUPS = 4  # captions are encoded in groups of like length, so that few pay for the longest


class ContrastiveTask:
    """Pull pictures and their captions together, push all others apart."""

    def __init__(self, model: CLIP) -> None:
        self.model = model

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """{"contrastive": loss} of a batch; the loss itself is computed in float32."""
        images = self.model.encode_image(to_float(batch.pictures)).float()
        texts = encode_by_length(self.model, batch.tokens).float()
        with torch.autocast(images.device.type, enabled=False):
            loss = contrastive_loss(
                F.normalize(images, dim=-1),
                F.normalize(texts, dim=-1),
                self.model.logit_scale.exp(),
                batch.positives,
            )
        return {"contrastive": loss}

    @torch.no_grad()
    def after_step(self) -> None:
        """Keep the logit scale at or below its maximum."""
        self.model.logit_scale.clamp_(max=math.log(MAX_LOGIT_SCALE))


def encode_by_length(model: CLIP, tokens: Tensor) -> Tensor:
    """`model.encode_text` of padded token ids (U, T), each group of like lengths cut to its own longest."""
    order = tokens.argmax(dim=-1).argsort()
    groups = [model.encode_text(trim(tokens[rows])) for rows in order.chunk(LENGTH_GROUPS)]
    return torch.cat(groups)[order.argsort()]
