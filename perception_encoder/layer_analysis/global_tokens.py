"""Find global tokens: patches that every token attends to, and the first layer with some (section 5.1).

In large encoders a few background patches no longer represent their position and hold information on the whole image:
whichever token attends, it attends to them. They hurt spatial tasks, and tracking peaks just before they appear. The
attention that a patch receives is the median over all other patches, not the mean, because a patch that only its
neighbours attend to is local. The paper shows such maps and gives no threshold; `TIMES` is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

TIMES = 10.0
"""A patch is global if the median patch gives it this many times an even share of its attention."""
MOST = 0.5
"""Share of images, and of the later layers, that must have global tokens for a layer to count."""


@dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """A layer's tokens over some images."""

    layer: int
    patch_norm: float
    """Median norm of the patch tokens."""
    largest_norm: float
    """Largest norm of a patch token, the median over images."""
    prefix_norm: float | None
    """Mean norm of class and register tokens; None without any."""
    global_tokens: float
    """Global tokens in an image, on average."""
    global_attention: float
    """Share of the patches' attention that goes to them, on average."""
    images_with: float
    """Share of images that have at least one."""


def received_attention(attention: Float[np.ndarray, "B N N"], prefix: int) -> Float[np.ndarray, "B P"]:
    """Return the attention that the median other patch gives each patch, in even shares (1: no more than to any).

    `attention`: rows are the tokens that attend, `prefix` of them before the patches, and sum to 1.
    """
    between = np.array(attention[:, prefix:, prefix:], dtype=np.float64)
    count = between.shape[-1]
    between[:, np.arange(count), np.arange(count)] = np.nan  # a patch's attention to itself does not count
    if count == 1:
        return np.zeros((len(between), 1))
    return np.nanmedian(between, axis=1) * attention.shape[-1]


def describe_tokens(
    layer: int, prefix: np.ndarray, patches: np.ndarray, attention: Float[np.ndarray, "B N N"]
) -> TokenStatistics:
    """Return statistics of a layer from its class and register tokens (B, P, D), patches (B, h, w, D) and attention."""
    norms = np.linalg.norm(patches.reshape(len(patches), -1, patches.shape[-1]), axis=-1)  # (B, h·w)
    before = prefix.shape[1]
    is_global = received_attention(attention, before) > TIMES
    to_global = (attention[:, before:, before:] * is_global[:, None]).sum(axis=-1)  # (B, h·w)
    return TokenStatistics(
        layer=layer,
        patch_norm=float(np.median(norms)),
        largest_norm=float(np.median(norms.max(axis=1))),
        prefix_norm=float(np.linalg.norm(prefix, axis=-1).mean()) if before else None,
        global_tokens=float(is_global.sum(axis=1).mean()),
        global_attention=float(to_global.mean()),
        images_with=float(is_global.any(axis=1).mean()),
    )


def first_global_layer(statistics: Sequence[TokenStatistics]) -> int | None:
    """Return the first layer in which, and in most layers after which, most images have global tokens; None if none."""
    has = np.array([each.images_with >= MOST for each in statistics])
    for index, each in enumerate(statistics):
        if has[index] and has[index:].mean() >= MOST:
            return each.layer
    return None
