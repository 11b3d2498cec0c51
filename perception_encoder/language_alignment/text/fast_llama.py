"""Decode single tokens with a small Llama faster than transformers, with equal results up to rounding.

A step multiplies one row by each weight, so memory and the overhead of small operations dominate. Here the linear
layers of a block that share an input are one matrix, whose rows the model also uses, and nothing is repeated for
grouped heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

MAX_PARAMETERS = 600_000_000
"""Maximum size; larger models were not measured, as memory dominates their steps and packing does not change that."""


class FastLlama:
    """Packed weights of a transformers Llama, shared with the model, which reads the prompt."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width, self.eps = config.hidden_size, config.rms_norm_eps
        self.head_width = self.width // self.heads
        self.model = model
        self.blocks = [_pack(block) for block in model.model.layers]
        self.last_norm, self.output = model.model.norm.weight.float(), model.lm_head.weight.detach()

    @staticmethod
    def fits(model: Any) -> bool:
        """Return whether a model is a small Llama on a CPU, such as SmolLM2."""
        config = getattr(model, "config", None)
        if type(model).__name__ != "LlamaForCausalLM" or config is None or config.hidden_act != "silu":
            return False
        plain = not config.attention_bias and not config.mlp_bias
        square = (getattr(config, "head_dim", None) or 0) in (0, config.hidden_size // config.num_attention_heads)
        count = sum(parameter.numel() for parameter in model.parameters())
        wrapped = any(not isinstance(layer, nn.Linear) for layer in linear_maps(model.model.layers[0]))
        fixed = plain and square and not wrapped and rotates_alike(model)
        return fixed and model.device.type == "cpu" and count <= MAX_PARAMETERS

    def continue_from(self, cache: Any, room: int) -> Callable[[int], Float[Tensor, " V"]]:
        """Return a function from the next token to the logits after it, for at most `room` tokens.

        `cache`: keys and values of one prompt, as the model returned them.
        """
        prompt = [(layer.keys[0], layer.values[0]) for layer in cache.layers]
        length = prompt[0][0].shape[1]
        rest = prompt[0][0].new_zeros(self.groups, room, self.head_width)
        keys, values = (
            torch.stack([torch.cat([layer, rest], 1) for layer in layers]) for layers in zip(*prompt, strict=True)
        )
        # (L, groups, T, head_width)
        positions = torch.arange(length, length + room)[None]
        cosines, sines = self.model.model.rotary_emb(keys[:1, 0], positions)
        cosines, sines = cosines[0], sines[0].clone()  # (room, head_width)
        sines[:, : self.head_width // 2] *= -1
        at = 0

        @torch.inference_mode()
        def step(token: int) -> Tensor:
            nonlocal at
            end = length + at + 1
            x = self.model.model.embed_tokens.weight[token][None].float()  # (1, D)
            for block, own_keys, own_values in zip(self.blocks, keys, values, strict=True):
                first_norm, qkv, output, second_norm, gates, down = block
                heads = functional.linear(self._norm(x, first_norm, qkv), qkv).view(-1, self.head_width)
                turned = heads[: self.heads + self.groups]
                turned = torch.addcmul(turned * cosines[at], turned.roll(self.head_width // 2, 1), sines[at])
                own_keys[:, end - 1], own_values[:, end - 1] = turned[self.heads :], heads[self.heads + self.groups :]
                queries = turned[: self.heads].view(self.groups, -1, self.head_width)
                scores = torch.bmm(queries, own_keys[:, :end].transpose(1, 2)).float()
                scores = (scores * self.head_width**-0.5).softmax(-1)
                mixed = torch.bmm(scores.to(heads.dtype), own_values[:, :end]).view(1, -1)
                x = x + functional.linear(mixed, output)
                gate, up = functional.linear(self._norm(x, second_norm, gates), gates).chunk(2, 1)
                x = x + functional.linear(functional.silu(gate) * up, down)
            at += 1
            return functional.linear(self._norm(x, self.last_norm, self.output), self.output)[0]

        return step

    def _norm(self, x: Tensor, weight: Tensor, after: Tensor) -> Tensor:
        """Return the root mean square norm, in the dtype of the next layer."""
        scale = torch.rsqrt(torch.linalg.vecdot(x, x)[:, None] / self.width + self.eps)
        return (x * scale * weight).to(after.dtype)


def rotates_alike(model: Any) -> bool:
    """Return whether a position is encoded alike in texts of any length; not with RoPE of these two types."""
    types = str([getattr(module, "rope_type", None) for module in model.modules()])
    return "dynamic" not in types and "longrope" not in types


def linear_maps(block: Any) -> tuple[Any, ...]:
    """Return the linear layers of a Llama's block: queries, keys, values, output; gate, up, down."""
    attention, mlp = block.self_attn, block.mlp
    return (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )


def _pack(block: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the weights: norm, queries-keys-values, output; norm, gate-up, down."""
    q, k, v, o, gate, up, down = linear_maps(block)
    norms = [norm.weight.detach().float() for norm in (block.input_layernorm, block.post_attention_layernorm)]
    return norms[0], _joined(q, k, v), o.weight.detach(), norms[1], _joined(gate, up), down.weight.detach()


def _joined(*maps: nn.Linear) -> Tensor:
    """Join weights into one matrix, and make each layer's weight a view of it."""
    joined = torch.cat([layer.weight.detach() for layer in maps])
    for layer, part in zip(maps, joined.split([len(layer.weight) for layer in maps]), strict=True):
        layer.weight.data = part
    return joined
