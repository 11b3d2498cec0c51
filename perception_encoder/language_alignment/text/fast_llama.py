"""Take single decoding steps of a small Llama faster than transformers does, with the same result but for rounding.

A step multiplies one row with each weight, so it waits for memory and for the calls of small operations. Here a block's
maps of one input are one matrix, norms are folded into the maps after them, and nothing is repeated for grouped heads.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

MOST_PARAMETERS = 600_000_000
"""The packed copies of a larger model's weights would take more memory than the steps are worth."""


class FastLlama:
    """The packed weights of a Llama of transformers; the model itself reads the prompt."""

    def __init__(self, model: Any) -> None:
        config = model.config
        self.heads, self.groups = config.num_attention_heads, config.num_key_value_heads
        self.width, self.eps = config.hidden_size, config.rms_norm_eps
        self.head_width = self.width // self.heads
        self.model = model
        self.blocks = [_pack(block, self.head_width**-0.5) for block in model.model.layers]
        self.output = _folded(model.lm_head.weight, model.model.norm.weight)

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether a model is a Llama on a CPU that is packed: SmolLM2 and small Llamas are."""
        config = getattr(model, "config", None)
        if type(model).__name__ != "LlamaForCausalLM" or config is None or config.hidden_act != "silu":
            return False
        plain = not config.attention_bias and not config.mlp_bias
        square = (getattr(config, "head_dim", None) or 0) in (0, config.hidden_size // config.num_attention_heads)
        count = sum(parameter.numel() for parameter in model.parameters())
        wrapped = any(not isinstance(each, nn.Linear) for each in _maps(model.model.layers[0]))
        return plain and square and not wrapped and model.device.type == "cpu" and count <= MOST_PARAMETERS

    def continue_from(self, cache: Any, room: int) -> Callable[[int], Float[Tensor, " V"]]:
        """Return a function that takes the next token and returns the logits after it, for at most `room` tokens.

        `cache`: keys and values of one prompt, as the model returned them.
        """
        prompt = [(keys[0], values[0]) for keys, values in _keys_and_values(cache)]
        length = prompt[0][0].shape[1]
        rest = prompt[0][0].new_zeros(self.groups, room, self.head_width)
        keys, values = (
            torch.stack([torch.cat([each, rest], 1) for each in part]) for part in zip(*prompt, strict=True)
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
            for (qkv, output, gates, down), own_keys, own_values in zip(self.blocks, keys, values, strict=True):
                heads = functional.linear(self._norm(x, qkv), qkv).view(-1, self.head_width)
                turned = heads[: self.heads + self.groups]
                turned = torch.addcmul(turned * cosines[at], turned.roll(self.head_width // 2, 1), sines[at])
                own_keys[:, end - 1], own_values[:, end - 1] = turned[self.heads :], heads[self.heads + self.groups :]
                queries = turned[: self.heads].view(self.groups, -1, self.head_width)
                scores = torch.bmm(queries, own_keys[:, :end].transpose(1, 2)).softmax(-1, dtype=torch.float32)
                mixed = torch.bmm(scores.to(heads.dtype), own_values[:, :end]).view(1, -1)
                x = x + functional.linear(mixed, output)
                gate, up = functional.linear(self._norm(x, gates), gates).chunk(2, 1)
                x = x + functional.linear(functional.silu(gate) * up, down)
            at += 1
            return functional.linear(self._norm(x, self.output), self.output)[0]

        return step

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """The root mean square norm without its weight, which is folded into the map, in the map's type."""
        return (x * torch.rsqrt(torch.linalg.vecdot(x, x)[:, None] / self.width + self.eps)).to(weight.dtype)


def _maps(block: Any) -> tuple[Any, ...]:
    attention, mlp = block.self_attn, block.mlp
    return (
        *(attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj),
        *(mlp.gate_proj, mlp.up_proj, mlp.down_proj),
    )


@torch.no_grad()
def _pack(block: Any, scale: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The maps to queries (scaled), keys and values; from heads; to gates and values; and down."""
    q, k, v, o, gate, up, down = (each.weight for each in _maps(block))
    heads = _folded(torch.cat([q.float() * scale, k.float(), v.float()]), block.input_layernorm.weight, q.dtype)
    gates = _folded(torch.cat([gate, up]), block.post_attention_layernorm.weight)
    return heads, o.detach(), gates, down.detach()


@torch.no_grad()
def _folded(weight: Tensor, norm: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return (weight.float() * norm.float()).to(dtype or weight.dtype).contiguous()


def _keys_and_values(cache: Any) -> list[tuple[Tensor, Tensor]]:
    if layers := getattr(cache, "layers", None):
        return [(layer.keys, layer.values) for layer in layers]
    return list(zip(cache.key_cache, cache.value_cache, strict=True))  # of transformers before 4.54
