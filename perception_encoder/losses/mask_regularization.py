"""Mask regularisation (step 9 of section 2.1, after MaskFeat): match a masked image's tokens to the whole image's."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def mask_regularization_loss(
    masked: Float[Tensor, "B N D"], whole: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, ""]:
    """Return the mean of 1 − cosine similarity between the masked and the whole image's tokens, where masked.

    `masked`, `whole`: patch tokens at the output. The whole image's are a fixed target without gradient, so this loss
    trains only the masked pass, and the contrastive loss the other. (The paper leaves open whether the target is fixed
    and whether visible tokens count; this is our reading.)
    """
    return 1 - F.cosine_similarity(masked[mask], whole.detach()[mask], dim=-1).mean()
