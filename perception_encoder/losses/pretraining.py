"""The losses of pretraining: contrastive and mask regularisation (section 2.1), logit distillation (section 2.4).

A batch may have several images of one caption, and several captions of one image. Each distinct caption is encoded
once, and every matching pair is a positive: an image's target is spread evenly over its captions, a caption's over its
images. For mixed images, positives are weights.

On several ranks, each computes the logits of its own images and captions against all others: memory for logits falls
with the number of ranks, and the ranks' losses add up to that of the whole batch.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from perception_encoder.transfer import to_device

ALL = slice(None)


def contrastive_loss(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "U D"],
    logit_scale: Float[Tensor, ""],
    image_positives: Bool[Tensor, "b U"] | Float[Tensor, "b U"],
    text_positives: Bool[Tensor, "u B"] | Float[Tensor, "u B"],
    own_images: slice = ALL,
    own_texts: slice = ALL,
) -> Float[Tensor, ""]:
    """Return the mean image→text and text→image cross-entropy of unit vectors, or this rank's share of it.

    Args:
        image_positives: The captions that match this rank's images.
        text_positives: The images that match its captions (on one rank, the transpose). Every row of both needs one;
            identities make this CLIP's symmetric loss.
        own_images, own_texts: This rank's rows of the features gathered from all ranks.
    """
    image_to_text = _cross_entropies(logit_scale * images[own_images] @ texts.T, image_positives)
    text_to_image = _cross_entropies(logit_scale * texts[own_texts] @ images.T, text_positives)
    return (image_to_text.sum() / len(images) + text_to_image.sum() / len(texts)) / 2


def _cross_entropies(logits: Tensor, positives: Tensor) -> Tensor:
    targets = positives.to(logits.dtype)
    return -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(dim=1)).sum(1)


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
    """Return the mean image→text and text→image KL divergence from the teacher's distributions over the batch.

    Vectors are unit vectors; the teacher's may have another width and take no gradient. On several ranks, this rank's
    share: see `contrastive_loss`.
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
    student, teacher = logits.log_softmax(dim=1), teacher_logits.log_softmax(dim=1)
    return F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)


def mask_regularization_loss(
    masked: Float[Tensor, "B N D"], whole: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, ""]:
    """Return the mean of 1 − cosine similarity between the masked and the whole image's patch tokens, where masked.

    The whole image's tokens are a fixed target, so this loss trains only the masked pass, and the contrastive loss the
    other. (The paper leaves open whether the target is fixed and whether visible tokens count; this is our reading.)
    The mask is read: with one on the CPU, nothing waits for a GPU.
    """
    hidden = to_device(mask.nonzero(), masked.device).unbind(1)
    return 1 - F.cosine_similarity(masked[hidden], whole.detach()[hidden], dim=-1).mean()
