"""Mask teachers: models that say, of an image, which pixels belong together (section 5, appendix B.3).

scenes      the exact masks that rendered scenes come with
segments    regions of similar colour at three scales (Felzenszwalb and Huttenlocher, 2004), without any model
a SAM 2.1   the paper's, for one prompt at each point of a grid (`sam.py`)
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from perception_encoder.errors import MissingExtraError, ShapeError
from perception_encoder.spatial_alignment.sam import Sam

SCENES, SEGMENTS = "scenes", "segments"
SCALES = (30.0, 100.0, 300.0)
"""Of felzenszwalb: a larger one gives larger segments."""
SIGMA, LEAST_PIXELS = 0.8, 20
"""Of felzenszwalb: its blur, and its smallest segment."""


class MaskTeacher(Protocol):
    """Makes mask logits of an image."""

    @property
    def identity(self) -> str:
        """What tells its masks from another teacher's, for caches and runs."""
        ...

    def masks(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "h w P"]:
        """Logits or memberships of P masks, at any resolution (h, w)."""
        ...


def mask_tokens(masks: Float[Tensor, "h w P"], grid: tuple[int, int]) -> Float[Tensor, "N P"]:
    """Bring masks to a patch grid, N = rows · columns: means over patches, or interpolated if the grid is finer.

    Raises ShapeError unless they are (h, w, P).
    """
    if masks.ndim != 3 or not masks.numel():
        raise ShapeError(f"masks have the shape {tuple(masks.shape)}; it must be (height, width, masks)")
    maps, (rows, columns) = masks.permute(2, 0, 1)[None].float(), grid
    if masks.shape[0] >= rows and masks.shape[1] >= columns:
        return F.adaptive_avg_pool2d(maps, grid)[0].flatten(1).T
    return F.interpolate(maps, grid, mode="bilinear")[0].flatten(1).T


def one_hot_masks(ids: Int[Tensor, "H W"]) -> Float[Tensor, "H W P"]:
    """A mask of each number that occurs."""
    _, order = ids.unique(return_inverse=True)
    return F.one_hot(order).float()


def find_mask_teacher(name: str, device: torch.device) -> MaskTeacher | None:
    """The teacher of a name (see the module), None for the masks that images have; raises what `Sam.load` does."""
    if name == SCENES:
        return None
    return Segments() if name == SEGMENTS else Sam.load(name, device)


class Segments:
    """Regions of similar colour, at several scales."""

    identity = f"felzenszwalb {SCALES} {SIGMA} {LEAST_PIXELS}"

    def __init__(self) -> None:
        """Raises MissingExtraError without scikit-image."""
        try:
            from skimage.segmentation import felzenszwalb
        except ImportError:
            raise MissingExtraError("scikit-image", "spatial") from None
        self._segment = felzenszwalb

    def masks(self, image: UInt8[Tensor, "3 H W"]) -> Float[Tensor, "H W P"]:
        """The segments of all scales, one after the other."""
        pixels = image.permute(1, 2, 0).numpy()
        labels = [self._segment(pixels, scale, SIGMA, LEAST_PIXELS) for scale in SCALES]
        return torch.cat([one_hot_masks(torch.from_numpy(each.astype(np.int64))) for each in labels], dim=-1)
