"""The contrastive loss of images and captions, where several images may share a caption.

A batch may have several images of one caption, and several captions of one image. Each distinct caption is encoded
once, and every matching pair is a positive: an image's target is spread evenly over its captions, a caption's over its
images. For mixed images, positives are weights.

On several ranks, each computes the logits of its own images and captions against all others: memory for logits falls
with the number of ranks, and the ranks' losses add up to that of the whole batch.
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
    """Return the mean image→text and text→image cross-entropy of unit vectors, or this rank's share of it.

    `own_images`, `own_texts`: this rank's rows of the features gathered from all ranks. `image_positives`: the captions
    that match this rank's images; `text_positives`: the images that match its captions (on one rank, the transpose).
    Every row needs one; identities make this CLIP's symmetric loss.
    """
    image_to_text = _cross_entropies(logit_scale * images[own_images] @ texts.T, image_positives)
    text_to_image = _cross_entropies(logit_scale * texts[own_texts] @ images.T, text_positives)
    return (image_to_text.sum() / len(images) + text_to_image.sum() / len(texts)) / 2


def _cross_entropies(logits: Tensor, positives: Tensor) -> Tensor:
    targets = positives.to(logits.dtype)
    return -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(dim=1)).sum(1)
