"""The contrastive loss against open_clip's, and by hand with a second true caption."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from perception_encoder.losses import contrastive


def contrastive_loss(images, texts, scale, positives) -> torch.Tensor:
    """Of one process."""
    return contrastive.contrastive_loss(images, texts, scale, positives, positives.T)


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 16, generator=generator, dtype=torch.float64), dim=-1).requires_grad_()


def test_one_caption_a_image_is_clips_loss() -> None:
    images, texts, scale = unit(6, 0), unit(6, 1), torch.tensor(20.0, dtype=torch.float64)
    ours = contrastive_loss(images, texts, scale, torch.eye(6, dtype=torch.bool))
    theirs = ClipLoss()(images, texts, scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(
        torch.autograd.grad(ours, [images, texts]), torch.autograd.grad(theirs, [images, texts]), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_hand_computed_with_a_second_true_caption() -> None:
    images = torch.eye(2, dtype=torch.float64)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    positives = torch.tensor([[True, False, True], [False, True, False]])
    loss = contrastive_loss(images, texts, torch.tensor(1.0, dtype=torch.float64), positives)
    e = math.e
    image_to_text = (-math.log(e / (2 * e + 1)) - math.log(e / (e + 2))) / 2
    text_to_image = -math.log(e / (e + 1))
    assert math.isclose(loss.item(), (image_to_text + text_to_image) / 2, rel_tol=1e-12)
