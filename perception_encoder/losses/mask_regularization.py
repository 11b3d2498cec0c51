"""Mask regularisation (step 9 of section 2.1, after MaskFeat): a masked image's tokens fit the whole one's."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def mask_regularization_loss(
    masked: Float[Tensor, "B N D"], whole: Float[Tensor, "B N D"], mask: Bool[Tensor, "B N"]
) -> Float[Tensor, ""]:
    """Mean of 1 − cosine similarity between a masked image's tokens and the whole image's, where it was masked.

    `masked`, `whole`: patch tokens at the output. The whole image's are a fixed target: no gradient reaches them, so
    this loss trains the masked pass alone, as the contrastive loss trains the other. (The paper leaves open whether
    the target is fixed and whether tokens that were seen count; this is our reading.)
    """
    return 1 - F.cosine_similarity(masked[mask], whole.detach()[mask], dim=-1).mean()
