"""Fit a student to a teacher's image-text similarities, as a task of the training loop (section 2.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.distillation.config import TEACHER_LOGIT_SCALE
from perception_encoder.distillation.teacher import Teacher
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.losses.logit_distillation import logit_distillation_loss
from perception_encoder.pretraining.towers import Towers
from perception_encoder.training.distributed import gather
from perception_encoder.training.task import ImageTextTask
from perception_encoder.training.validation import Validation


class DistillationTask(ImageTextTask):
    """Fit a student to a teacher's logits of each batch; the contrastive loss stands beside it if it has a weight.

    `student`: takes images of `image_size`; the batch's may be larger. Of a rank's part of a batch, the losses are its
    parts.
    """

    def __init__(
        self,
        student: Towers,
        teacher: Teacher,
        image_size: int,
        teacher_logit_scale: float = TEACHER_LOGIT_SCALE,
        contrastive_weight: float = 0.0,
        validation: Validation | None = None,
    ) -> None:
        super().__init__(student, validation)
        self.teacher, self.image_size = teacher, image_size
        self.teacher_logit_scale, self.contrastive_weight = teacher_logit_scale, contrastive_weight

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """Return {"distillation": …, "contrastive": …} (the second if it has a weight), computed in float32."""
        self.left_out = batch.left_out
        towers = self.model(scale_down(batch.images, self.image_size), batch.tokens)
        size, captions = len(batch), batch.image_positives.shape[1]
        with torch.autocast(towers.images.device.type, enabled=False):
            of_images, of_texts = self.teacher.embed(batch.images, batch.texts)
            student = (
                gather(F.normalize(towers.images, dim=-1), size),
                gather(F.normalize(towers.texts, dim=-1), captions),
            )
            teacher = gather(of_images.to(towers.images), size), gather(of_texts.to(towers.texts), captions)
            own, scale = (batch.own_images, batch.own_tokens), towers.logit_scale
            losses = {
                "distillation": logit_distillation_loss(*student, scale, *teacher, self.teacher_logit_scale, *own)
            }
            if self.contrastive_weight:
                losses["contrastive"] = self.contrastive_weight * contrastive_loss(
                    *student, scale, batch.image_positives, batch.text_positives, *own
                )
        return losses


def scale_down(images: Tensor, size: int) -> Tensor:
    """Scale uint8 images (B, 3, H, W) to (B, 3, size, size), antialiased; images of that size stay as they are."""
    if images.shape[-1] == size:
        return images
    exact = images if images.device.type == "cpu" else images.float()  # no other device scales uint8
    scaled = F.interpolate(exact, size=(size, size), mode="bilinear", antialias=True)
    return scaled if scaled.dtype == torch.uint8 else scaled.round().byte()
