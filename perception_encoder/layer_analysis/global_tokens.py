"""Global tokens: patches that every token looks at, and the layer from which on there are some (section 5.1).

In large encoders a few patches of the background stop standing for their place and hold what concerns the whole
picture: whichever token looks, it looks at them. They cost spatial tasks dearly, and tracking peaks just before they
appear. How much a patch is looked at is measured here by the middle one of all other patches, not by their mean: a
patch that its neighbours look at much is a local one. The paper shows such maps and gives no threshold; `TIMES` is
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

TIMES = 10.0
"""A patch is global where the median patch gives it this many times an even share of its attention."""
MOST = 0.5
"""Share of pictures, and of the layers that follow, that must have global tokens for a layer to count."""


@dataclass(frozen=True, kw_only=True)
class TokenStatistics:
    """A layer's tokens over some pictures."""

    layer: int
    patch_norm: float
    """Median norm of the patch tokens."""
    largest_norm: float
    """Largest norm of a patch token, the median over pictures."""
    prefix_norm: float | None
    """Mean norm of class and register tokens; None where there are none."""
    global_tokens: float
    """How many there are in a picture, on average."""
    global_attention: float
    """Share of the patches' attention that goes to them, on average."""
    pictures_with: float
    """Share of pictures that have at least one."""


def received_attention(attention: Float[np.ndarray, "B N N"], prefix: int) -> Float[np.ndarray, "B P"]:
    """How much the median other patch looks at each patch, in even shares of a token's attention (1: no more than any).

    `attention`: rows are the tokens that look, `prefix` of them before the patches, and sum to 1.
    """
    between = np.array(attention[:, prefix:, prefix:], dtype=np.float64)
    count = between.shape[-1]
    between[:, np.arange(count), np.arange(count)] = np.nan  # what a patch gives itself says nothing
    if count == 1:
        return np.zeros((len(between), 1))
    return np.nanmedian(between, axis=1) * attention.shape[-1]


def find_global(attention: Float[np.ndarray, "B N N"], prefix: int) -> Bool[np.ndarray, "B P"]:
    """Which patches are global tokens."""
    return received_attention(attention, prefix) > TIMES


def describe_tokens(
    layer: int, prefix: np.ndarray, patches: np.ndarray, attention: Float[np.ndarray, "B N N"]
) -> TokenStatistics:
    """Statistics of a layer: class and register tokens (B, P, D), patches (B, h, w, D), and who looks where."""
    norms = np.linalg.norm(patches.reshape(len(patches), -1, patches.shape[-1]), axis=-1)  # (B, h·w)
    before = prefix.shape[1]
    found = find_global(attention, before)
    to_global = (attention[:, before:, before:] * found[:, None]).sum(axis=-1)  # (B, h·w)
    return TokenStatistics(
        layer=layer,
        patch_norm=float(np.median(norms)),
        largest_norm=float(np.median(norms.max(axis=1))),
        prefix_norm=float(np.linalg.norm(prefix, axis=-1).mean()) if before else None,
        global_tokens=float(found.sum(axis=1).mean()),
        global_attention=float(to_global.mean()),
        pictures_with=float(found.any(axis=1).mean()),
    )


def first_global_layer(statistics: Sequence[TokenStatistics]) -> int | None:
    """The layer from which on most pictures have global tokens, in it and in most of those after it; None for none."""
    has = np.array([each.pictures_with >= MOST for each in statistics])
    for place, each in enumerate(statistics):
        if has[place] and has[place:].mean() >= MOST:
            return each.layer
    return None
