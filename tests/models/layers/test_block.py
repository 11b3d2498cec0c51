"""Blocks against their definition; gradient checkpointing changes memory, not results."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from perception_encoder.models.layers.block import Block, LayerScale, Transformer, drop_path
from perception_encoder.models.layers.rope import rope_table


def randomize(module: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)


def tokens(length: int = 9) -> Tensor:
    return torch.randn(2, length, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_block_is_as_defined(layer_scale: float | None) -> None:
    block = Block(32, 4, 64, layer_scale)
    randomize(block)
    gammas = [1, 1] if layer_scale is None else [block.ls_1.gamma, block.ls_2.gamma]
    x = tokens()
    middle = x + gammas[0] * block.attn(F.layer_norm(x, (32,), block.ln_1.weight, block.ln_1.bias, eps=1e-5))
    normed = F.layer_norm(middle, (32,), block.ln_2.weight, block.ln_2.bias, eps=1e-5)
    expected = middle + gammas[1] * block.mlp.c_proj(F.gelu(block.mlp.c_fc(normed)))  # the exact GELU
    torch.testing.assert_close(block(x), expected)


def test_layer_scale_starts_where_it_is_told() -> None:
    assert torch.equal(LayerScale(5, 0.1).gamma, torch.full((5,), 0.1))


@pytest.mark.parametrize("training", [True, False])
def test_checkpointing_gives_the_same_gradients(training: bool) -> None:
    transformer = Transformer(32, 3, 4, 64, layer_scale=0.1).train(training)
    randomize(transformer)
    rope = rope_table((3, 3), 8, False, torch.device("cpu"))
    mask = (torch.arange(9) < torch.tensor([[9], [6]]))[:, None, None]
    runs = {}
    for checkpointing in (False, True):
        transformer.checkpointing = checkpointing
        transformer.zero_grad()
        calls = []
        count = lambda *_, calls=calls: calls.append(1)  # noqa: E731
        hooks = [block.register_forward_pre_hook(count) for block in transformer.resblocks]
        transformer(tokens(), rope, mask).square().sum().backward()
        for hook in hooks:
            hook.remove()
        runs[checkpointing] = len(calls), [parameter.grad.clone() for parameter in transformer.parameters()]
    assert runs[False][0] == 3
    assert runs[True][0] == 6  # each block once more in the backward pass
    for plain, recomputed in zip(runs[False][1], runs[True][1], strict=True):
        torch.testing.assert_close(recomputed, plain)


def test_checkpointing_costs_nothing_without_gradients() -> None:
    transformer = Transformer(32, 2, 4, 64)
    randomize(transformer)
    expected = transformer(tokens())
    transformer.checkpointing = True
    with torch.inference_mode():
        torch.testing.assert_close(transformer(tokens()), expected.detach())


def test_layer_scale_put_in_later_changes_nothing_at_first() -> None:
    block = Block(32, 4, 64)
    randomize(block)
    expected = block(tokens())
    block.add_layer_scale(0.1)
    torch.testing.assert_close(block(tokens()), expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(block.ls_2.gamma, torch.full((32,), 0.1))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_stochastic_depth_leaves_branches_out_sample_by_sample(checkpointing: bool) -> None:
    stack = Transformer(32, 2, 4, 64)
    randomize(stack)
    stack.checkpointing = checkpointing
    whole, x = stack(tokens()), tokens()
    nothing, all_of_it = torch.zeros(2, 2), torch.ones(2, 2)
    assert torch.equal(stack(x, branches=torch.stack([nothing, nothing])), x)
    torch.testing.assert_close(stack(x, branches=torch.stack([all_of_it, all_of_it])), whole)
    one = torch.tensor([[0.0, 2.0], [0.0, 1.0]])  # of the first block, the second sample's branches alone
    mixed = stack(x, branches=torch.stack([one, all_of_it]))
    block = stack.resblocks[0]
    middle = x + torch.tensor([0.0, 2.0])[:, None, None] * block.attn(block.ln_1(x))
    first = middle + torch.tensor([0.0, 1.0])[:, None, None] * block.mlp(block.ln_2(middle))
    torch.testing.assert_close(mixed, stack.resblocks[1](first))


def test_stochastic_depth_keeps_the_mean() -> None:
    factors = drop_path(40, 500, 0.4, torch.Generator().manual_seed(0))
    assert factors.shape == (40, 2, 500)
    assert factors.unique().tolist() == pytest.approx([0, 1 / 0.6])
    assert abs(float(factors.mean()) - 1) < 0.02


def test_drop_path_may_grow_linearly() -> None:
    factors = drop_path(3, 4000, 0.5, torch.Generator().manual_seed(0), linear=True)
    assert (factors[0] == 1).all()
    assert factors.amax(dim=(1, 2)).tolist() == pytest.approx([1, 1 / 0.75, 2])
    assert (factors == 0).float().mean(dim=(1, 2)).tolist() == pytest.approx([0, 0.25, 0.5], abs=0.02)
