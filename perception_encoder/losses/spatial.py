"""The losses of spatial alignment (section 5): to a teacher's tokens, and to a mask teacher's token similarities.

The first preserves what the model knows, the second gives its features the edges of masks. Both are means over all
tokens, including masked ones. The paper maximises the first as a similarity; as a loss it has a minus sign.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from perception_encoder.errors import ShapeError

TEMPERATURE = 20.0  # t of the teacher's exp(t (x - 1)), where x is a cosine similarity
BLOCK = 256  # rows of an image's similarity matrix in memory at a time


def token_cosine_loss(student: Float[Tensor, "B N D"], teacher: Float[Tensor, "B N D"]) -> Float[Tensor, ""]:
    """Return minus the mean cosine similarity of the student's and the teacher's tokens; no gradient for the teacher.

    Raises ShapeError for tokens of different shapes.
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
    """Return the mean squared difference of the cosine similarities between all pairs of an image's tokens.

    The teacher's x becomes exp(temperature · (x − 1)), unless that is None; it takes no gradient. At most `block` · N
    similarities are in memory at a time, also in the backward pass. Raises ShapeError unless both have as many images
    and tokens.
    """
    if student.shape[:2] != teacher.shape[:2]:
        ours, theirs = (f"{len(tokens)} images of {tokens.shape[1]} tokens" for tokens in (student, teacher))
        raise ShapeError(f"the student has {ours}, the teacher {theirs}; both need the same grid of patches")
    images, tokens = student.shape[:2]
    total: Tensor = _SquaredDifferences.apply(student, teacher.detach(), temperature, block)
    return total / (images * tokens * tokens)


class _SquaredDifferences(torch.autograd.Function):
    """Sums over all pairs; the backward pass recomputes the matrices block by block instead of storing them."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, teacher: Tensor, temperature: float | None, block: int) -> Tensor:
        ctx.save_for_backward(student, teacher)
        ctx.temperature, ctx.block = temperature, block
        sums = [
            difference.square().sum()
            for tokens, targets in zip(student, teacher, strict=True)
            for _, difference in _differences(_unit(tokens), _unit(targets), temperature, block)
        ]
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        student, teacher = ctx.saved_tensors
        gradient = torch.empty_like(student)
        for image, (tokens, targets) in enumerate(zip(student, teacher, strict=True)):
            unit, length = _unit(tokens), tokens.float().norm(dim=-1, keepdim=True).clamp_min(1e-12)
            for rows, difference in _differences(unit, _unit(targets), ctx.temperature, ctx.block):
                of_unit = 4 * grads[0] * (difference @ unit)  # twice for the square, twice for a pair's two orders
                along = (of_unit * unit[rows]).sum(-1, keepdim=True)
                gradient[image, rows] = ((of_unit - along * unit[rows]) / length[rows]).to(gradient.dtype)
        return gradient, None, None, None


def _unit(tokens: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
    return F.normalize(tokens.float(), dim=-1)


def _differences(
    student: Float[Tensor, "N D"], teacher: Float[Tensor, "N P"], temperature: float | None, block: int
) -> Iterator[tuple[slice, Float[Tensor, "M N"]]]:
    """Yield rows of tokens, with their similarities to all tokens minus the teacher's."""
    for start in range(0, len(student), block):
        rows = slice(start, start + block)
        target = teacher[rows] @ teacher.T
        if temperature is not None:
            target = target.sub_(1).mul_(temperature).exp_()
        yield rows, (student[rows] @ student.T).sub_(target)
