"""Mask teachers: models that say, of an image, which pixels belong together (section 5, appendix B.3).

scenes      the exact masks that rendered scenes come with
a SAM 2.1   the paper's, for one prompt at each point of a grid (`sam.py`)

Where the paper interpolates mask logits to the student's grid, they are averaged over each patch: see `mask_tokens`.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from perception_encoder.errors import ShapeError
from perception_encoder.spatial_alignment.sam import Sam

SCENES = "scenes"


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

    The paper says that masks are interpolated to the student's grid. Interpolation would read a few pixels of each
    patch and miss thin objects between them; a mean counts every pixel.
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
    return None if name == SCENES else Sam.load(name, device)
