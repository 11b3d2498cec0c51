"""The contrastive loss of images and captions that several images may share, of a batch or a rank's part of it.

A batch may hold several images of one caption, and several captions that are true of one image. Each distinct
caption is encoded once, and every true pair is a positive: an image's target is spread evenly over its captions, a
caption's over its images. For mixed images, positives are numbers: how far a caption is true of an image.

Spread over ranks, each computes the rows of its own images and captions against everybody's: memory for logits
falls with the number of ranks, and the ranks' parts add up to the loss of the whole batch.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

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
    """Mean of the image→text and text→image cross-entropies of unit vectors, or this rank's part of it.

    `own_images`, `own_texts`: the rows, of features gathered from all ranks, that are this rank's; the parts of all
    ranks add up to the loss. `image_positives`: which captions are true of this rank's images; `text_positives`: of
    which images this rank's captions are true (alone, the transpose). Every row needs one; identities make this
    CLIP's symmetric loss.
    """
    image_to_text = _cross_entropies(logit_scale * images[own_images] @ texts.T, image_positives)
    text_to_image = _cross_entropies(logit_scale * texts[own_texts] @ images.T, text_positives)
    return (image_to_text.sum() / len(images) + text_to_image.sum() / len(texts)) / 2


def _cross_entropies(logits: Tensor, positives: Tensor) -> Tensor:
    targets = positives.to(logits.dtype)
    return -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(dim=1)).sum(1)
