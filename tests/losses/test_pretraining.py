"""The losses of pretraining against open_clip's, and by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss, DistillClipLoss

from perception_encoder.losses.pretraining import contrastive_loss, logit_distillation_loss, mask_regularization_loss
from perception_encoder.ranks import Rank

TEACHER_SCALE = 20.0


def unit(rows: int, seed: int, width: int = 16) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


def scale(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def assert_same_gradients(ours: torch.Tensor, theirs: torch.Tensor, inputs: list[torch.Tensor]) -> None:
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_one_caption_an_image_is_clips_loss() -> None:
    images, texts, s = unit(6, 0), unit(6, 1), scale(20.0)
    ours = contrastive_loss(images, texts, s, *[torch.eye(6, dtype=torch.bool)] * 2)
    theirs = ClipLoss()(images, texts, s)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert_same_gradients(ours, theirs, [images, texts, s])


def test_a_second_true_caption_by_hand() -> None:
    images = torch.eye(2, dtype=torch.float64)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    positives = torch.tensor([[True, False, True], [False, True, False]])
    loss = contrastive_loss(images, texts, scale(1.0), positives, positives.T)
    e = math.e
    image_to_text = (-math.log(e / (2 * e + 1)) - math.log(e / (e + 2))) / 2
    text_to_image = -math.log(e / (e + 1))
    assert math.isclose(loss.item(), (image_to_text + text_to_image) / 2, rel_tol=1e-12)


def test_distillation_is_open_clips_less_the_teachers_entropy() -> None:
    """open_clip's cross-entropy has the same gradients, and the teacher's entropy more."""
    images, texts, s = unit(6, 0), unit(6, 1), scale(10.0)
    teacher = unit(6, 2, 8), unit(6, 3, 8)
    ours = logit_distillation_loss(images, texts, s, *teacher, TEACHER_SCALE)
    _, theirs = DistillClipLoss()(images, texts, s, *(item.detach() for item in teacher), TEACHER_SCALE)
    logits = TEACHER_SCALE * teacher[0] @ teacher[1].T
    entropies = [-(item.softmax(1) * item.log_softmax(1)).sum(1).mean() for item in (logits, logits.T)]
    torch.testing.assert_close(ours, theirs - sum(entropies) / 2, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(ours, teacher[0], retain_graph=True, allow_unused=True) == (None,)
    assert_same_gradients(ours, theirs, [images, texts, s])


@pytest.mark.parametrize("ranks", [2, 3])
def test_parts_of_ranks_add_up_to_the_whole(ranks: int) -> None:
    features = [unit(7, 0), unit(5, 1), scale(10.0), unit(7, 2), unit(5, 3), TEACHER_SCALE]
    whole = logit_distillation_loss(*features)
    shares = [Rank(rank=number, world_size=ranks) for number in range(ranks)]
    parts = sum(logit_distillation_loss(*features, rank.share(7), rank.share(5)) for rank in shares)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=0)
    assert_same_gradients(parts, whole, features[:3])


def test_mask_regularization_by_hand() -> None:
    masked = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]]])
    whole = torch.tensor([[[0.0, 5.0], [1.0, 0.0], [0.0, 1.0]]])
    loss = mask_regularization_loss(masked, whole, torch.tensor([[True, True, False]]))
    assert math.isclose(loss.item(), 1 - (0 + 0.6) / 2, rel_tol=1e-6)


def test_the_whole_image_is_a_fixed_target_and_seen_tokens_do_not_count() -> None:
    masked, whole = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    mask_regularization_loss(masked, whole, mask).backward()
    assert whole.grad is None
    assert ((masked.grad.abs().sum(-1) > 0) == mask).all()
