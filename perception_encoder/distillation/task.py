"""Distillation as a task of the training loop (section 2.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.distillation.teacher import Teacher
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.losses.logit_distillation import logit_distillation_loss
from perception_encoder.train.distributed import gather
from perception_encoder.train.image_text_task import MAX_LOGIT_SCALE, ImageTextTask

TEACHER_LOGIT_SCALE = 2 * MAX_LOGIT_SCALE  # the teacher's temperature is half the student's (appendix C.3)


class DistillationTask(ImageTextTask):
    """Fit a student to what a teacher says of each batch; the contrastive loss stands beside it where it has a weight.

    `student`: takes uint8 pictures (b, 3, S, S) and token ids (u, T), and gives their embeddings and the logit scale
    first. `image_size`: S; the batch's pictures may be larger. Of a rank's part of a batch, the losses are its parts.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teacher,
        image_size: int,
        teacher_logit_scale: float = TEACHER_LOGIT_SCALE,
        contrastive_weight: float = 0.0,
    ) -> None:
        super().__init__(student)
        self.teacher, self.image_size = teacher, image_size
        self.teacher_logit_scale, self.contrastive_weight = teacher_logit_scale, contrastive_weight

    def losses(self, batch: ImageTextBatch) -> dict[str, Tensor]:
        """{"distillation": …, "contrastive": …} (the second where it has a weight), computed in float32."""
        self.left_out = batch.left_out
        images, texts, scale, *_ = self.model(scale_down(batch.pictures, self.image_size), batch.tokens)
        pictures, captions = len(batch), batch.image_positives.shape[1]
        with torch.autocast(images.device.type, enabled=False):
            taught_images, taught_texts = self.teacher.embed(batch.pictures, batch.texts)
            student = gather(F.normalize(images, dim=-1), pictures), gather(F.normalize(texts, dim=-1), captions)
            taught = gather(taught_images.to(images), pictures), gather(taught_texts.to(texts), captions)
            own = batch.own_pictures, batch.own_tokens
            found = {"distillation": logit_distillation_loss(*student, scale, *taught, self.teacher_logit_scale, *own)}
            if self.contrastive_weight:
                found["contrastive"] = self.contrastive_weight * contrastive_loss(
                    *student, scale, batch.image_positives, batch.text_positives, *own
                )
        return found


def scale_down(pictures: Tensor, size: int) -> Tensor:
    """Uint8 pictures (B, 3, H, W) as (B, 3, size, size), antialiased; as they are where they have that size."""
    if pictures.shape[-1] == size:
        return pictures
    exact = pictures if pictures.device.type == "cpu" else pictures.float()  # no other device scales uint8
    scaled = F.interpolate(exact, size=(size, size), mode="bilinear", antialias=True)
    return scaled if scaled.dtype == torch.uint8 else scaled.round().byte()
