"""The contrastive loss of pictures and captions, with targets that know shared captions.

A batch may hold several pictures of one caption, and several captions that are true of one picture. Each distinct
caption is encoded once, and every true pair is a positive: a picture's target is spread evenly over its captions, a
caption's over its pictures.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor


def contrastive_loss(
    images: Float[Tensor, "B D"],
    texts: Float[Tensor, "U D"],
    logit_scale: Float[Tensor, ""],
    positives: Bool[Tensor, "B U"],
) -> Float[Tensor, ""]:
    """Mean of the picture→text and text→picture cross-entropies of unit vectors.

    `positives`: which captions are true of which pictures; every row and column needs one. The identity makes this
    CLIP's symmetric loss.
    """
    logits = logit_scale * images @ texts.T  # (B, U)
    targets = positives.to(logits.dtype)
    image_to_text = -(targets / targets.sum(1, keepdim=True) * logits.log_softmax(dim=1)).sum(1).mean()
    text_to_image = -(targets / targets.sum(0, keepdim=True) * logits.log_softmax(dim=0)).sum(0).mean()
    return (image_to_text + text_to_image) / 2
