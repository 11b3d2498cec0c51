"""Distillation by logits against open_clip's loss; its gradient; parts that add up."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import DistillClipLoss

from perception_encoder.losses.logit_distillation import logit_distillation_loss
from perception_encoder.ranks import Rank

TEACHER_SCALE = 20.0


def unit(rows: int, seed: int, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


def scale(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def test_it_is_open_clips_less_the_teachers_entropy() -> None:
    """open_clip's cross-entropy has the same gradients, and the teacher's entropy more."""
    images, texts, s = unit(6, 0), unit(6, 1), scale(10.0)
    teacher_images, teacher_texts = unit(6, 2, 8), unit(6, 3, 8)
    ours = logit_distillation_loss(images, texts, s, teacher_images, teacher_texts, TEACHER_SCALE)
    _, theirs = DistillClipLoss()(images, texts, s, teacher_images.detach(), teacher_texts.detach(), TEACHER_SCALE)
    logits = TEACHER_SCALE * teacher_images @ teacher_texts.T
    entropies = [-(item.softmax(1) * item.log_softmax(1)).sum(1).mean() for item in (logits, logits.T)]
    torch.testing.assert_close(ours, theirs - sum(entropies) / 2, rtol=1e-12, atol=1e-12)
    inputs = [images, texts, s]
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_are_those_of_finite_differences() -> None:
    teacher_images, teacher_texts = unit(5, 2), unit(3, 3)

    def loss(images: torch.Tensor, texts: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return logit_distillation_loss(images, texts, s, teacher_images, teacher_texts, TEACHER_SCALE)

    assert torch.autograd.gradcheck(loss, (unit(5, 0), unit(3, 1), scale(5.0)))
    found = torch.autograd.grad(loss(unit(5, 0), unit(3, 1), scale(5.0)), teacher_images, allow_unused=True)
    assert found == (None,)


@pytest.mark.parametrize("ranks", [2, 3])
def test_parts_of_ranks_add_up_to_the_whole(ranks: int) -> None:
    features = [unit(7, 0), unit(5, 1), scale(10.0), unit(7, 2), unit(5, 3), TEACHER_SCALE]
    whole = logit_distillation_loss(*features)
    shares = [Rank(rank=number, world_size=ranks) for number in range(ranks)]
    parts = [logit_distillation_loss(*features, rank.share(7), rank.share(5)) for rank in shares]
    torch.testing.assert_close(sum(parts), whole, rtol=1e-12, atol=0)
    for a, b in zip(
        torch.autograd.grad(sum(parts), features[:3]), torch.autograd.grad(whole, features[:3]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
