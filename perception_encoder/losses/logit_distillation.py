"""Logit distillation (section 2.4): match the student's image-text distributions to a teacher's.

Both turn the similarities of a batch into a distribution over captions for each image, and over images for each
caption; the loss is the mean Kullback-Leibler divergence. Captions and ranks count as in the contrastive loss.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

ALL = slice(None)


def logit_distillation_loss(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "U D"],
    logit_scale: Float[Tensor, ""],
    teacher_images: Float[Tensor, "B E"],
    teacher_texts: Float[Tensor, "U E"],
    teacher_logit_scale: float,
    own_images: slice = ALL,
    own_texts: slice = ALL,
) -> Float[Tensor, ""]:
    """Return the mean image→text and text→image divergence of unit vectors, or this rank's share of it.

    The teacher's vectors may have another width and take no gradient. `own_images`, `own_texts`: this rank's rows of
    the features gathered from all ranks.
    """
    teacher_images, teacher_texts = teacher_images.detach(), teacher_texts.detach()
    image_to_text = _divergences(
        logit_scale * images[own_images] @ texts.T, teacher_logit_scale * teacher_images[own_images] @ teacher_texts.T
    )
    text_to_image = _divergences(
        logit_scale * texts[own_texts] @ images.T, teacher_logit_scale * teacher_texts[own_texts] @ teacher_images.T
    )
    return (image_to_text.sum() / len(images) + text_to_image.sum() / len(texts)) / 2


def _divergences(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return KL(teacher ‖ student) of each row."""
    student, teacher = logits.log_softmax(dim=1), teacher_logits.log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
