"""Attention pooling against torch's own cross-attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from perception_encoder.models.layers.pooling import AttentionPooling


def random_pooling(width: int = 32) -> AttentionPooling:
    pooling = AttentionPooling(width)
    generator = torch.Generator().manual_seed(0)
    for parameter in pooling.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return pooling


def expected(pooling: AttentionPooling, tokens: torch.Tensor, seen: torch.Tensor | None = None) -> torch.Tensor:
    """The published definition with torch's module: 8 heads, then `x + mlp(layernorm(x))`."""
    width = tokens.shape[-1]
    attention = nn.MultiheadAttention(width, 8, batch_first=True)
    attention.load_state_dict(pooling.attn.state_dict())
    probe = pooling.probe.expand(len(tokens), -1, -1)
    x = attention(probe, tokens, tokens, key_padding_mask=None if seen is None else ~seen, need_weights=False)[0][:, 0]
    norm = F.layer_norm(x, (width,), pooling.layernorm.weight, pooling.layernorm.bias, eps=1e-5)
    return x + pooling.mlp.c_proj(F.gelu(pooling.mlp.c_fc(norm)))


def test_pooling_is_as_defined() -> None:
    pooling = random_pooling()
    tokens = torch.randn(3, 17, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pooling(tokens), expected(pooling, tokens), rtol=1e-4, atol=1e-5)


def test_pooling_sees_no_padding() -> None:
    pooling = random_pooling()
    tokens = torch.randn(2, 17, 32, generator=torch.Generator().manual_seed(1))
    seen = torch.arange(17) < torch.tensor([[17], [5]])
    pooled = pooling(tokens, seen[:, None, None])
    torch.testing.assert_close(pooled, expected(pooling, tokens, seen), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled[1:], pooling(tokens[1:, :5]), rtol=1e-4, atol=1e-5)


def test_pooling_of_frozen_tokens_is_the_same_and_learns_the_same() -> None:
    generator = torch.Generator().manual_seed(0)
    pooling = AttentionPooling(16, 4)
    for parameter in pooling.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3, generator)
    tokens = torch.randn(3, 7, 16, generator=generator)
    for forward in (pooling, pooling.forward_frozen):
        pooling.zero_grad()
        pooled = forward(tokens)
        pooled.square().sum().backward()
        found = {name: parameter.grad.clone() for name, parameter in pooling.named_parameters()}
        if forward is pooling:
            expected, gradients = pooled, found
    torch.testing.assert_close(pooled, expected)
    torch.testing.assert_close(found, gradients, atol=1e-4, rtol=1e-4)
