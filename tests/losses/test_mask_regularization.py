"""Mask regularisation by hand, and what it sends no gradient to."""

from __future__ import annotations

import math

import torch

from perception_encoder.losses.mask_regularization import mask_regularization_loss


def test_hand_computed() -> None:
    masked = torch.tensor([[[1.0, 0.0], [3.0, 4.0], [0.0, 2.0]]])
    whole = torch.tensor([[[0.0, 5.0], [1.0, 0.0], [0.0, 1.0]]])
    loss = mask_regularization_loss(masked, whole, torch.tensor([[True, True, False]]))
    assert math.isclose(loss.item(), 1 - (0 + 0.6) / 2, rel_tol=1e-6)
    assert mask_regularization_loss(masked, 7 * masked, torch.tensor([[True, True, True]])).abs() < 1e-6


def test_the_whole_image_is_a_fixed_target_and_seen_tokens_do_not_count() -> None:
    masked, whole = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[True, False, False, True], [False, True, False, False]])
    mask_regularization_loss(masked, whole, mask).backward()
    assert whole.grad is None
    assert ((masked.grad.abs().sum(-1) > 0) == mask).all()
