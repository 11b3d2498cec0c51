"""The formulas for what is stored for the backward pass give what autograd saves, to the byte."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from perception_encoder.models.config import VisionConfig
from perception_encoder.models.text_transformer import TextTransformer
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.planning.activations import text_activations, vision_activations
from tests.models.small import CORE, KINDS, TEXT, randomize

SIZE = 136  # 17 x 17 patches: so many that attention is the fused kernel's on a CPU too
LONG = dataclasses.replace(TEXT, context_length=300)
TYPES = {2: torch.bfloat16, 4: torch.float32}
CLASS_POOLED = dataclasses.replace(CORE, attention_pool=False)


def saved(model: nn.Module, inputs: Tensor, size: int) -> int:
    """Bytes of all distinct memory that autograd saves in a forward pass, but for the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its address
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=size == 2),
    ):
        output = model(inputs)
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def saved_of_one(model: nn.Module, make: Callable[[int], Tensor], size: int) -> int:
    """What each further input adds: copies of weights and tables that all inputs share do not count."""
    return saved(model, make(3), size) - saved(model, make(2), size)


@pytest.mark.parametrize("size", TYPES)
@pytest.mark.parametrize("config", [*KINDS.values(), CLASS_POOLED], ids=[*KINDS, "class token pooled"])
def test_images(config: VisionConfig, size: int) -> None:
    if config.output_dim is None:
        config = dataclasses.replace(config, attention_pool=True, output_dim=8)
    tower = VisionTransformer(config)
    randomize(tower)
    saved_bytes = saved_of_one(tower, lambda count: torch.randn(count, 3, SIZE, SIZE), size)
    assert saved_bytes == vision_activations(config, SIZE, size).total()


@pytest.mark.parametrize("size", TYPES)
def test_texts(size: int) -> None:
    tower = TextTransformer(LONG)
    randomize(tower)
    saved_bytes = saved_of_one(tower, lambda count: torch.ones(count, 300, dtype=torch.int64), size)
    assert saved_bytes == text_activations(LONG, size=size).total()


@pytest.mark.parametrize("size", TYPES)
def test_checkpointing_keeps_every_block_s_input(size: int) -> None:
    """And, while a block is gone through backwards, that block whole."""
    tower = VisionTransformer(CORE)
    randomize(tower)
    tower.set_grad_checkpointing()
    saved_bytes = saved_of_one(tower, lambda count: torch.randn(count, 3, SIZE, SIZE), size)
    formula = vision_activations(CORE, SIZE, size)
    assert saved_bytes == formula.ends + CORE.depth * formula.block_input
    assert formula.total(checkpointing=True) == saved_bytes + formula.block - formula.block_input
