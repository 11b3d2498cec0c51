"""Rotary positions against their definition, and the table's independence of who asks for it, and when."""

from __future__ import annotations

import cmath

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import profile

from perception_encoder.models import layers
from perception_encoder.models.layers import (
    Attention,
    AttentionPooling,
    Transformer,
    attend,
    drop_path,
    rope_table,
    rotate,
)
from perception_encoder.models.vision_transformer import resample_positions

CPU = torch.device("cpu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def defined(x: Tensor, grid: tuple[int, int], class_token: bool) -> Tensor:
    """The definition, a complex number at a time: PAPER §2.4."""
    n, head_dim = x.shape
    half = head_dim // 2
    result = torch.empty_like(x)
    for token in range(n):
        patch = token - int(class_token)
        column, row = (patch % grid[1] + class_token, patch // grid[1] + class_token) if patch >= 0 else (0, 0)
        for pair in range(half):
            position, i = (column, pair) if pair < half // 2 else (row, pair - half // 2)
            turn = cmath.exp(1j * position * 10000 ** (-2 * i / half))
            turned = complex(x[token, 2 * pair], x[token, 2 * pair + 1]) * turn
            result[token, 2 * pair], result[token, 2 * pair + 1] = turned.real, turned.imag
    return result


@pytest.mark.parametrize("class_token", [True, False])
def test_rotation_is_as_defined(class_token: bool) -> None:
    grid, head_dim = (3, 5), 16
    x = noise(15 + class_token, head_dim)
    rotated = rotate(x[None, None], rope_table(grid, head_dim, class_token, CPU))[0, 0]
    torch.testing.assert_close(rotated, defined(x, grid, class_token), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("scores", [1, 3 * 40 * 40, 2**20])
def test_plain_attention_in_bfloat16_is_the_fused_one(
    scores: int, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, k, v = (2 * noise(2, 3, 40, 16, seed=seed).bfloat16() for seed in range(3))
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), is_causal=causal)
    monkeypatch.setattr(layers, "CACHED_SCORES", scores)
    calls = []
    for bfloat16, amx in ((True, False), (True, True), (False, False)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda known=bfloat16: known)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda known=amx: known)
        with profile() as profiled, torch.inference_mode():
            attended = attend(q, k, v, causal=causal)
        assert (attended.double() - exact).abs().max() < 0.02 * exact.abs().max()  # a few roundings in bfloat16
        calls.append(sum(event.count for event in profiled.key_averages() if event.key == "aten::softmax"))
    assert calls == [{1: 6, 2**20: 1}.get(scores, 2), 0, 0]


def bilinear(square: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Sample a grid (s, s, D) at the centres of another grid's cells, an axis after the other."""
    for axis, size in enumerate(grid):
        side = square.shape[axis]
        centres = ((np.arange(size) + 0.5) * side / size - 0.5).clip(0, side - 1)
        low = np.floor(centres).astype(int)
        high = np.minimum(low + 1, side - 1)
        share = (centres - low).reshape([-1 if a == axis else 1 for a in range(3)])
        square = (1 - share) * square.take(low, axis) + share * square.take(high, axis)
    return square


@pytest.mark.parametrize("grid", [(8, 12), (3, 2), (20, 7)])
def test_resampling_is_bilinear(grid: tuple[int, int]) -> None:
    table = noise(49, 5)
    expected = bilinear(table.numpy().reshape(7, 7, 5).astype(np.float64), grid).reshape(-1, 5)
    np.testing.assert_allclose(resample_positions(table, grid).numpy(), expected, atol=1e-5)


SHORT, LONG = 20, 300  # tokens: training takes plain products for few of them, the fused kernel for many


def pair(causal: bool = False, width: int = 32, heads: int = 4) -> tuple[Attention, nn.MultiheadAttention]:
    generator = torch.Generator().manual_seed(0)
    ours, torchs = Attention(width, heads, causal), nn.MultiheadAttention(width, heads, batch_first=True)
    for name, parameter in torchs.named_parameters():
        nn.init.normal_(parameter, std=width**-0.5, generator=generator)
        ours.get_parameter(name).data.copy_(parameter.data)
    return ours, torchs


def assert_same(ours: Attention, torchs: nn.MultiheadAttention, mine: Tensor, theirs: Tensor) -> None:
    """Values and the gradients of all parameters agree."""
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    weights = noise(*mine.shape)
    (mine * weights).sum().backward()
    (theirs * weights).sum().backward()
    for name, parameter in torchs.named_parameters():
        torch.testing.assert_close(ours.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("kind", ["plain", "causal", "masked"])
def test_attention_is_torchs(kind: str, length: int) -> None:
    ours, torchs = pair(causal=kind == "causal")
    x = noise(2, length, 32)
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1) if kind == "causal" else None
    seen = torch.arange(length) < torch.tensor([[length], [7 if kind == "masked" else length]])
    mine = ours(x, mask=seen[:, None, None]) if kind == "masked" else ours(x)
    assert_same(ours, torchs, mine, torchs(x, x, x, attn_mask=hidden, key_padding_mask=~seen, need_weights=False)[0])


@pytest.mark.parametrize("length", [SHORT, LONG])
@pytest.mark.parametrize("causal", [False, True])
def test_training_and_inference_agree(length: int, causal: bool) -> None:
    ours, _ = pair(causal)
    x = noise(2, length, 32)
    rope = None if causal else rope_table((length // 5, 5), 8, False, x.device)
    trained = ours(x, rope)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x, rope), trained.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stochastic_depth_leaves_branches_out_sample_by_sample(checkpointing: bool) -> None:
    stack, x = Transformer(32, 2, 4, 64), noise(2, 9, 32, seed=1)
    for number, parameter in enumerate(stack.parameters()):
        parameter.data = 0.2 * noise(*parameter.shape, seed=number)
    stack.checkpointing = checkpointing
    whole = stack(x)
    nothing, all_of_it = torch.zeros(2, 2), torch.ones(2, 2)
    assert torch.equal(stack(x, branches=torch.stack([nothing, nothing])), x)
    torch.testing.assert_close(stack(x, branches=torch.stack([all_of_it, all_of_it])), whole)
    one = torch.tensor([[0.0, 2.0], [0.0, 1.0]])  # of the first block, the second sample's branches alone
    mixed = stack(x, branches=torch.stack([one, all_of_it]))
    block = stack.resblocks[0]
    middle = x + torch.tensor([0.0, 2.0])[:, None, None] * block.attn(block.ln_1(x))
    first = middle + torch.tensor([0.0, 1.0])[:, None, None] * block.mlp(block.ln_2(middle))
    torch.testing.assert_close(mixed, stack.resblocks[1](first))


def test_drop_path_may_grow_linearly() -> None:
    factors = drop_path(3, 4000, 0.5, torch.Generator().manual_seed(0), linear=True)
    assert (factors[0] == 1).all()
    assert factors.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1 / 0.75, 2])
    assert (factors == 0).float().mean(dim=(1, 2)).tolist() == pytest.approx([0, 0.25, 0.5], abs=0.02)


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


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("one_product", [True, False])
@pytest.mark.parametrize(
    ("causal", "rotated", "masked"), [(True, False, False), (False, True, False), (False, True, True)]
)
def test_traced_attention_is_the_same(causal: bool, rotated: bool, masked: bool, one_product: bool) -> None:
    attention = Attention(48, 2, causal).requires_grad_(False)
    attention.one_product = one_product
    for number, parameter in enumerate(attention.parameters()):
        parameter.data = 0.3 * noise(*parameter.shape, seed=number)
    x, mask = noise(3, 7, 48), torch.ones(3, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    inputs = x, rope_table((2, 3), 24, True, CPU) if rotated else None, mask if masked else None
    given = tuple(value for value in inputs if value is not None)

    class Caller(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = attention

        def forward(self, *values: Tensor) -> Tensor:
            rest = iter(values[1:])
            return self.attention(values[0], next(rest) if rotated else None, next(rest) if masked else None)

    with torch.no_grad():
        traced = torch.jit.trace(Caller(), given)
        torch.testing.assert_close(traced(*given), attention(*inputs), rtol=1e-5, atol=1e-5)
