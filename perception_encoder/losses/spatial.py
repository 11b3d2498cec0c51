"""The losses of spatial alignment (section 5): to a teacher's tokens, and to a mask teacher's similarities of tokens.

The first keeps what the model knows, the second gives its features the edges of masks. Both are means over all tokens,
masked ones too. The paper writes the first as a similarity that is maximised; here it has the minus sign of a loss.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from perception_encoder.errors import ShapeError

TEMPERATURE = 20.0
"""t of the teacher's exp(t (x - 1)), where x is a cosine similarity."""
BLOCK = 256
"""Rows of an image's matrix of similarities that are in memory at a time."""


def token_cosine_loss(student: Float[Tensor, "B N D"], teacher: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
    """Minus the mean cosine similarity of each token and the teacher's; the teacher takes no gradient.

    Raises ShapeError unless both have as many images, tokens and channels.
    """
    if student.shape != teacher.shape:
        raise ShapeError(f"the student's tokens are {tuple(student.shape)}, the teacher's {tuple(teacher.shape)}")
    return -F.cosine_similarity(student.float(), teacher.detach().float(), dim=-1).mean()


def token_similarity_loss(
    student: Float[Tensor, "B N D"],
    teacher: Float[Tensor, "B N P"],
    temperature: float | None = TEMPERATURE,
    block: int = BLOCK,
) -> Float[Tensor, ""]:
    """Mean squared difference of both sides' cosine similarities between all pairs of tokens of an image.

    The teacher's x becomes exp(temperature · (x − 1)), or stays as it is at None; it takes no gradient. No more than
    `block` · N similarities are in memory at a time, in the backward pass too. Raises ShapeError unless both have as
    many images and tokens.
    """
    if student.shape[:2] != teacher.shape[:2]:
        own, other = (f"{len(each)} images of {each.shape[1]} tokens" for each in (student, teacher))
        raise ShapeError(f"the student has {own}, the teacher {other}; both must be on one grid of patches")
    images, tokens = student.shape[:2]
    total: Tensor = _SquaredDifferences.apply(student, teacher.detach(), temperature, block)
    return total / (images * tokens * tokens)


class _SquaredDifferences(torch.autograd.Function):
    """The sum over all pairs; the backward pass makes the matrices again, block by block, rather than store them."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float | None, block: int) -> Tensor:
        ctx.save_for_backward(student, teacher)
        ctx.temperature, ctx.block = temperature, block
        sums = [
            difference.square().sum()
            for own, other in zip(student, teacher, strict=True)
            for _, difference in _differences(_unit(own), _unit(other), temperature, block)
        ]
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher = ctx.saved_tensors
        gradient = torch.empty_like(student)
        for image, (own, other) in enumerate(zip(student, teacher, strict=True)):
            unit, length = _unit(own), own.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)
            for rows, difference in _differences(unit, _unit(other), ctx.temperature, ctx.block):
                of_unit = 4 * grads[0] * (difference @ unit)  # twice for the square, twice for a pair's two orders
                along = (of_unit * unit[rows]).sum(-1, keepdim=True)
                gradient[image, rows] = ((of_unit - along * unit[rows]) / length[rows]).to(gradient.dtype)
        return gradient, None, None, None


def _unit(tokens: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return F.normalize(tokens.float(), dim=-1)


def _differences(
    own: Float[Tensor, "N D"], other: Float[Tensor, "N P"], temperature: float | None, block: int
) -> Iterator[tuple[slice, Float[Tensor, "M N"]]]:
    """Yield rows of tokens, and their similarities to all tokens less the teacher's."""
    for start in range(0, len(own), block):
        rows = slice(start, start + block)
        target = other[rows] @ other.T
        if temperature is not None:
            target = target.sub_(1).mul_(temperature).exp_()
        yield rows, (own[rows] @ own.T).sub_(target)
