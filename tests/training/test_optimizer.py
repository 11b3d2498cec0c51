"""LAMB's steps by hand, what decays by default and by open_clip's rule, and the learning-rate schedule."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from perception_encoder.errors import ConfigError
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer, decays, layer_scales, learning_rate
from tests.pretraining.toys import debug

EPSILON = 1e-6  # timm's


def lamb_by_hand(weight: Tensor, gradient: Tensor, lr: float, decay: float) -> Tensor:
    """The weight after its first step (You and others 2019): Adam's direction and the decay, scaled to its norm."""
    direction = gradient / (gradient.abs() + EPSILON) + decay * weight
    return weight - lr * weight.norm() / direction.norm() * direction


@pytest.mark.parametrize("decay", [0.0, 0.05])
def test_lamb_scales_the_steps_of_matrices_at_any_decay(decay: float) -> None:
    generator = torch.Generator().manual_seed(0)
    model = nn.Linear(6, 5)
    weight, bias = (parameter.detach().clone() for parameter in (model.weight, model.bias))
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.01, weight_decay=decay))
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), lamb_by_hand(weight, model.weight.grad, 0.01, decay))
    step = (model.weight.detach() - weight).norm() / weight.norm()
    assert step.item() == pytest.approx(0.01, rel=1e-4)  # the trust ratio makes it the rate
    torch.testing.assert_close(model.bias.detach(), bias - 0.01 * model.bias.grad.sign())  # Adam's plain step


def test_tables_are_spared_by_default() -> None:
    model = create_model("builtin")
    spared = {name.split(".")[-1] for name, p in model.named_parameters() if p.ndim >= 2 and not decays(name, p)}
    assert spared == {"positional_embedding", "probe", "weight"}  # the last is the token table
    assert all(not decays(name, p) for name, p in model.named_parameters() if p.ndim < 2)
    assert decays("visual.conv1.weight", model.visual.conv1.weight)
    groups = build_optimizer(model, OptimizerConfig()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_tables_of_other_libraries_are_spared_as_well() -> None:
    """Those of timm's and transformers' towers decayed, and transformers' patch kernel did not."""
    timm = pytest.importorskip("timm")
    model = timm.create_model("vit_tiny_patch16_224", depth=1)
    assert not any(decays(name, p) for name, p in model.named_parameters() if name in ("pos_embed", "cls_token"))
    table = nn.Parameter(torch.zeros(2, 2))
    for name in ("position_embeddings", "cls_token", "register_tokens", "position_embedding.weight"):
        assert not decays(f"embeddings.{name}", table)
    for name in ("embeddings.patch_embedding.weight", "patch_embed.proj.weight", "embed_tokens.weight"):
        assert decays(name, table)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
def test_tables_decay_by_open_clip_s_rule(name: str) -> None:
    def exclude(n: str, p: Tensor) -> bool:  # open_clip_train/main.py, version 3.2
        return p.ndim < 2 or "bn" in n or "ln" in n or "bias" in n or "logit_scale" in n

    model = create_model("builtin")
    decayed, exempt = build_optimizer(model, OptimizerConfig(name=name, decay_tables=True)).param_groups
    expected = {id(p) for n, p in model.named_parameters() if exclude(n, p)}
    assert {id(p) for p in exempt["params"]} == expected and exempt["weight_decay"] == 0
    assert {id(model.text.token_embedding.weight), id(model.visual.attn_pool.probe)} <= {*map(id, decayed["params"])}
    assert len(decayed["params"]) + len(exempt["params"]) == len(list(model.parameters()))


def test_warm_up_then_cosine() -> None:
    shares = [learning_rate(step, 100, 10) for step in range(100)]
    assert shares[0] == 0.1
    assert shares[9] == shares[10] == 1.0
    assert math.isclose(shares[55], 0.5)
    assert 0 < shares[99] < 0.001
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_the_cosine_may_end_at_a_share_of_the_peak() -> None:
    """As in PLM's released code: min_ratio + (1 - min_ratio) · (cos πs + 1) / 2."""
    shares = [learning_rate(step, 101, 1, floor=0.01) for step in range(101)]
    assert shares[1] == 1 and shares[51] == pytest.approx(0.01 + 0.99 / 2)
    assert learning_rate(101, 101, 1, floor=0.01) == pytest.approx(0.01) and min(shares) > 0.01
    with pytest.raises(ConfigError, match=r"floor is -0\.1; it must be from 0 to 1"):
        dataclasses.replace(debug(), floor=-0.1)


def test_each_tower_s_last_trained_block_has_the_first_decay() -> None:
    """The deepest tower's depth counted for all, and blocks that are not trained counted too."""
    model = nn.ModuleDict({"visual": nn.Module(), "text": nn.Module()})
    for tower, depth in (("visual", 2), ("text", 5)):
        model[tower].blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(depth))
        model[tower].pos_embed = nn.Parameter(torch.zeros(3, 2))
    model["text"].blocks[4].requires_grad_(False)
    scales = layer_scales(model, 0.5)
    assert [scales[f"visual.blocks.{block}.weight"] for block in range(2)] == [0.25, 0.5]
    assert [scales[f"text.blocks.{block}.weight"] for block in range(4)] == [0.0625, 0.125, 0.25, 0.5]
    assert (scales["visual.pos_embed"], scales["text.pos_embed"]) == (0.125, 0.03125)


def test_the_rate_drops_in_steps() -> None:
    shares = [learning_rate(step, 100, 10, (0.5, 0.8)) for step in range(100)]
    assert shares[0] == pytest.approx(0.1) and shares[9] == 1
    assert shares[10:50] == [1.0] * 40 and shares[50:80] == pytest.approx([0.1] * 30)
    assert shares[80:] == pytest.approx([0.01] * 20)


def test_everything_decays_and_some_is_slow_if_it_is_said() -> None:
    """As in DETA's and detectron2's configs."""
    model = nn.ModuleDict({"sampling_offsets": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    config = OptimizerConfig(name="adamw", lr=1e-2, weight_decay=0.1, decay_all=True, slow=("sampling_offsets",))
    groups = [group for group in build_optimizer(model, config).param_groups if group["params"]]
    assert [group["weight_decay"] for group in groups] == [0.1, 0.1]
    rates = {id(param): group["lr"] for group in groups for param in group["params"]}
    assert [rates[id(parameter)] for parameter in model["sampling_offsets"].parameters()] == pytest.approx([1e-3] * 2)
    assert [rates[id(parameter)] for parameter in model["norm"].parameters()] == [1e-2] * 2
