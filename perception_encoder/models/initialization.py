"""Initialize parameters from a given generator: ours as CLIP does, and those of other libraries; make generators."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from perception_encoder.models.clip import CLIP
from perception_encoder.models.layers import AttentionPooling, Block, LayerScale, Transformer
from perception_encoder.models.vision_transformer import VisionTransformer


@torch.no_grad()
def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Fill every parameter of a model, a tower or an attention pooling in place.

    LayerNorms become the identity, biases zero.
    """

    def normal(parameter: Tensor | None, std: float) -> None:
        if parameter is not None:
            parameter.normal_(0.0, std, generator=generator)

    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, Transformer):
            for block in module.resblocks:
                assert isinstance(block, Block)
                _initialize_branch(block, block.attn.out_proj.in_features, len(module.resblocks), normal)
        elif isinstance(module, AttentionPooling):
            _initialize_branch(module, module.probe.shape[-1], 1, normal)
            normal(module.probe, 0.02)
        elif isinstance(module, VisionTransformer):
            scale = module.config.width**-0.5
            normal(module.conv1.weight, (3 * module.config.patch_size**2) ** -0.5)
            normal(module.class_embedding, scale)
            normal(module.positional_embedding, scale)
            normal(module.proj, scale)
    if isinstance(model, CLIP):
        normal(model.text.token_embedding.weight, 0.02)
        normal(model.text.positional_embedding, 0.01)
        normal(model.text.text_projection, model.text.config.width**-0.5)
        model.logit_scale.fill_(math.log(1 / 0.07))


def _initialize_branch(
    module: Block | AttentionPooling, width: int, depth: int, normal: Callable[[Tensor, float], None]
) -> None:
    residual_std = (2 * width * depth) ** -0.5  # residual branches shrink with depth
    normal(module.attn.in_proj_weight, width**-0.5)
    normal(module.attn.out_proj.weight, residual_std)
    normal(module.mlp.c_fc.weight, (2 * width) ** -0.5)
    normal(module.mlp.c_proj.weight, residual_std)
    for bias in (module.attn.in_proj_bias, module.attn.out_proj.bias, module.mlp.c_fc.bias, module.mlp.c_proj.bias):
        nn.init.zeros_(bias)
    for layer in module.children():
        if isinstance(layer, LayerScale):
            layer.gamma.fill_(layer.initial)


@contextmanager
def drawn_from(generator: torch.Generator) -> Iterator[None]:
    """Make torch's global CPU generator draw from `generator` within the block."""
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(generator.get_state())
        yield
        generator.set_state(torch.get_rng_state())


def torch_generator(*key: int) -> torch.Generator:
    """Return a CPU generator for a key such as (seed, purpose, step)."""
    (seed,) = np.random.SeedSequence(key).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(seed) & (2**63 - 1))
