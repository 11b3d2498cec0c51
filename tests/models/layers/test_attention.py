"""Attention against torch's own module, on every path that `attend` may take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from perception_encoder.models.layers.attention import Attention, attend
from perception_encoder.models.layers.rope import rope_table

SHORT, LONG = 20, 300  # tokens: training takes plain products for few of them, the fused kernel for many


def pair(width: int = 32, heads: int = 4) -> tuple[Attention, nn.MultiheadAttention]:
    generator = torch.Generator().manual_seed(0)
    ours, torchs = Attention(width, heads), nn.MultiheadAttention(width, heads, batch_first=True)
    for name, parameter in torchs.named_parameters():
        nn.init.normal_(parameter, std=width**-0.5, generator=generator)
        ours.get_parameter(name).data.copy_(parameter.data)
    return ours, torchs


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def assert_same(ours: Attention, torchs: nn.MultiheadAttention, mine: Tensor, theirs: Tensor) -> None:
    """Values and the gradients of all parameters agree."""
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    weights = noise(*mine.shape)
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    for name, parameter in torchs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [1, SHORT, LONG])
def test_self_attention(length: int) -> None:
    ours, torchs = pair()
    x = noise(2, length, 32)
    assert_same(ours, torchs, ours(x), torchs(x, x, x, need_weights=False)[0])


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_causal_attention(length: int) -> None:
    ours, torchs = pair()
    x = noise(2, length, 32)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    assert_same(ours, torchs, ours(x, causal=True), torchs(x, x, x, attn_mask=hidden, need_weights=False)[0])


@pytest.mark.parametrize("length", [SHORT, LONG])
def test_masked_attention(length: int) -> None:
    ours, torchs = pair()
    x = noise(2, length, 32)
    seen = torch.arange(length) < torch.tensor([[length], [7]])
    theirs = torchs(x, x, x, key_padding_mask=~seen, need_weights=False)[0]
    assert_same(ours, torchs, ours(x, mask=seen[:, None, None]), theirs)


@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("causal", [False, True])
def test_training_and_inference_agree(length: int, causal: bool) -> None:
    ours, _ = pair()
    x = noise(2, length, 32)
    rope = None if causal else rope_table((length // 5, 5), 8, False, x.device)
    trained = ours(x, rope, causal=causal)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, rope, causal=causal), trained.detach(), rtol=1e-4, atol=1e-5)


def test_what_is_masked_has_no_influence() -> None:
    ours, _ = pair()
    x, seen = noise(1, 10, 32), (torch.arange(10) < 6)[None, None, None]
    changed = torch.cat([x[:, :6], 100 * x[:, 6:]], dim=1)
    torch.testing.assert_close(ours(x, mask=seen)[:, :6], ours(changed, mask=seen)[:, :6])


def test_attention_weights_are_a_softmax_of_scaled_products() -> None:
    q, k, v = (noise(1, 2, 6, 8) * scale for scale in (1, 2, 3))
    expected = ((q @ k.transpose(-1, -2)) / 8**0.5).softmax(-1) @ v
    torch.testing.assert_close(attend(q, k, v), expected)
    torch.testing.assert_close(attend(q.requires_grad_(), k, v), expected)
