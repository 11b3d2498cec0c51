"""The layers of both towers: two-dimensional rotary positions (RoPE), attention, transformer blocks, pooling.

RoPE: half of each head's channels rotate with x, the other half with y (x first). Within a half, neighbouring channels
form pairs, and pair i rotates by `position · 10000^(-2i/d)`, d being the half's width. A class token has angle 0, and
patches then count from 1, else from 0. A table depends on the grid only, so it is computed once per grid and shared,
read-only, by all blocks, calls and threads.

Parameters have the published names and layout: queries, keys and values in one `in_proj`, in that order.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def rope_table(
    grid: tuple[int, int], head_dim: int, class_token: bool, device: torch.device, step: float = 1.0
) -> Tensor:
    """Return cosines and signed sines of a grid of patches: float32 (2, N, head_dim), N = class token + h·w.

    The sine of a pair's first channel has the minus sign, so that `rotate` is one multiply and one add. `step`:
    distance between the positions of neighbouring patches.
    """
    compute = _compute_table if _is_traced() else _cached_table  # a traced tensor must not outlive its trace
    return compute(grid, head_dim, class_token, device, step)


def _is_traced() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


@lru_cache(maxsize=64)
def _cached_table(*arguments: Any) -> Tensor:
    with torch.inference_mode(False), torch.no_grad():  # so that training can use what inference computed
        return _compute_table(*arguments)


def _compute_table(
    grid: tuple[int, int], head_dim: int, class_token: bool, device: torch.device, step: float
) -> Tensor:
    h, w = grid
    half = head_dim // 2
    frequencies = 10000.0 ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    first = 1.0 if class_token else 0.0
    x = torch.arange(w, dtype=torch.float32, device=device).mul(step).add(first).repeat(h)
    y = torch.arange(h, dtype=torch.float32, device=device).mul(step).add(first).repeat_interleave(w)
    angles = torch.cat([x[:, None] * frequencies, y[:, None] * frequencies], dim=1)  # (h·w, head_dim / 2)
    if class_token:
        angles = torch.cat([angles.new_zeros(1, half), angles])
    cosines, sines = angles.cos().repeat_interleave(2, dim=1), angles.sin()
    return torch.stack([cosines, torch.stack([-sines, sines], dim=-1).flatten(1)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Rotate queries or keys (…, N, head_dim) by a `rope_table`, in float32."""
    if _is_traced():  # compilers and exporters want real numbers
        exact = x.float()
        swapped = exact.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
        return torch.addcmul(exact * table[0], swapped, table[1]).to(x.dtype)
    return _Rotation.apply(x, torch.complex(table[0, :, 1::2], table[1, :, 1::2]))


class _Rotation(torch.autograd.Function):
    """A complex product whose gradient is the inverse rotation (several times faster than autograd's)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turns: Tensor) -> Tensor:
        ctx.save_for_backward(turns)
        exact = x.to(torch.float32, memory_format=torch.contiguous_format, copy=True)
        torch.view_as_complex(exact.unflatten(-1, (-1, 2))).mul_(turns)
        return exact.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (turns,) = ctx.saved_tensors
        return _Rotation.apply(gradient, turns.conj()), None


_SHORT = 256  # tokens up to which plain products train faster on a CPU (3.6-7.5x at 12-65, 1.2x at 197)
CACHED_SCORES = 2**20  # fit a CPU core's cache in bfloat16


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Attend over (B, heads, N, head_dim), with torch's fused kernel unless plain products are faster on this CPU."""
    trains = torch.is_grad_enabled() and q.requires_grad
    if q.device.type == "cpu" and trains and k.shape[-2] <= _SHORT and not torch.compiler.is_exporting():
        return _attend_plainly(q, k, v, mask, causal)
    if trains or mask is not None or q.dtype != torch.bfloat16 or not _has_slow_kernel(q.device.type):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal)
    count = max(1, CACHED_SCORES // (q.shape[-2] * k.shape[-2]))  # of heads at a time
    queries, keys, values = (x.flatten(0, 1).split(count) for x in (q, k, v))
    parts = [_attend_plainly(*part, None, causal) for part in zip(queries, keys, values, strict=True)]
    return torch.cat(parts).unflatten(0, q.shape[:2])


def _attend_plainly(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # (…, N, N)
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def _has_slow_kernel(device: str) -> bool:
    """Return whether torch's fused kernel is slower in bfloat16 (1.1-1.6x, whole towers); watched calls need it."""
    if device != "cpu" or _is_traced() or torch._C._is_torch_function_mode_enabled():
        return False  # first: a compiled program cannot ask for the CPU's features
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


class Attention(nn.Module):
    """Self-attention over tokens (B, N, D); with `causal`, to earlier ones only."""

    one_product = True
    """Whether a trace has one product for queries, keys and values; three are faster in bfloat16 with AMX."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Attend; `rope` is a `rope_table`, `mask` is boolean (B, 1, 1, N), True for visible tokens."""
        if torch.jit.is_tracing():
            return self._forward_traced(x, rope, mask)
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        heads_first = projected.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        queries_keys, values = heads_first.split((2, 1))  # not slices, whose gradients would be added instead of joined
        q, k = (queries_keys if rope is None else rotate(queries_keys, rope)).unbind(0)
        v = values[0]  # each (B, heads, N, head_dim)
        attended = attend(q, k, v, mask, self.causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2))  # (B, N, D)

    def _forward_traced(self, x: Tensor, rope: Tensor | None, mask: Tensor | None) -> Tensor:
        """Compute the same in the form that OpenVINO fuses into kernels of its own, a tenth to a half faster.

        The scale is in the queries' weights. Before a rotation the weights of queries and keys put the first channels
        of all pairs before the second ones: halves rotate in one step, and products of queries and keys stay the same.
        """
        heads, width = self.heads, self.out_proj.in_features
        head_dim = width // heads
        order = torch.arange(width)
        if rope is not None:
            order = order.view(heads, -1, 2).transpose(1, 2).flatten()
        rows = torch.cat([order, order + width, torch.arange(width) + 2 * width])
        scale = self.in_proj_bias.new_ones(3 * width)
        scale[:width] = head_dim**-0.5
        weight, bias = self.in_proj_weight[rows] * scale[:, None], self.in_proj_bias[rows] * scale
        if self.one_product:
            projected = F.linear(x, weight, bias).chunk(3, -1)
        else:
            projected = tuple(map(partial(F.linear, x), weight.chunk(3), bias.chunk(3)))
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in projected)
        if rope is not None:
            cosines, sines = (table.repeat(1, 1, 1, 2) for table in (rope[None, :1, :, ::2], rope[None, 1:, :, 1::2]))
            q, k = (
                part * cosines + torch.cat([part[..., head_dim // 2 :] * -1.0, part[..., : head_dim // 2]], -1) * sines
                for part in (q, k)
            )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=self.causal, scale=1.0)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU in between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch, initially small."""

    def __init__(self, width: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((width,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Block(nn.Module):
    """Attention and feed-forward layers, each after a LayerNorm and with a residual connection."""

    def __init__(
        self, width: int, heads: int, hidden: int, layer_scale: float | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, causal)
        self.ls_1 = LayerScale(width, layer_scale) if layer_scale is not None else nn.Identity()
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width, hidden)
        self.ls_2 = LayerScale(width, layer_scale) if layer_scale is not None else nn.Identity()

    def forward(
        self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None, branches: Tensor | None = None
    ) -> Tensor:
        """`branches` (2, B): factors of the two residual branches per sample; see `drop_path`."""
        return self.join(x, self.attn(self.ln_1(x), rope, mask), branches)

    def join(self, x: Tensor, attended: Tensor, branches: Tensor | None) -> Tensor:
        """Return the block's output for its input and what attention gave for that."""
        attention = self.ls_1(attended)
        x = x + (attention if branches is None else attention * branches[0, :, None, None])
        mlp = self.ls_2(self.mlp(self.ln_2(x)))
        return x + (mlp if branches is None else mlp * branches[1, :, None, None])

    @torch.no_grad()
    def add_layer_scale(self, initial: float) -> None:
        """Add LayerScale to a block without changing its output: the maps before it grow by the same factor."""
        width = self.ln_1.normalized_shape[0]
        for last in (self.attn.out_proj, self.mlp.c_proj):
            last.weight.div_(initial)
            last.bias.div_(initial)
        self.ls_1, self.ls_2 = LayerScale(width, initial), LayerScale(width, initial)
        self.to(last.weight)


def drop_path(depth: int, batch: int, rate: float, generator: torch.Generator, linear: bool = False) -> Tensor:
    """Draw stochastic depth for `Transformer.forward`: factors (depth, 2, batch) of residual branches.

    A factor is 0 or 1 / (1 - rate). `rate`: the probability of 0, in all blocks, as in the reference's encoders; with
    `linear` it rises from 0 in the first block to `rate` in the last, as in its detectors.
    """
    rates = torch.linspace(0 if linear else rate, rate, depth)[:, None, None]
    return (torch.rand(depth, 2, batch, generator=generator) >= rates) / (1 - rates)


class Transformer(nn.Module):
    """A stack of blocks; `checkpointing` trades a second forward pass for activation memory."""

    def __init__(
        self, width: int, depth: int, heads: int, hidden: int, layer_scale: float | None = None, causal: bool = False
    ) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, hidden, layer_scale, causal) for _ in range(depth))
        self.checkpointing = False

    def run_block(self, index: int, x: Tensor, *inputs: Tensor | None) -> Tensor:
        """Run one block on tokens (B, N, D); `inputs`: the rest of `Block.forward`'s."""
        return self.recomputed(self.resblocks[index], x, *inputs)

    def recomputed(self, function: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """Call a function, again in the backward pass if `checkpointing`."""
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(function, *inputs, use_reentrant=False)
        return function(*inputs)

    def forward(
        self, x: Tensor, rope: Tensor | None = None, mask: Tensor | None = None, branches: Tensor | None = None
    ) -> Tensor:
        """`branches` (depth, 2, B): factors of the residual branches; see `drop_path`."""
        for index in range(len(self.resblocks)):
            x = self.run_block(index, x, rope, mask, None if branches is None else branches[index])
        return x


class ProbeAttention(Attention):
    """Cross-attention of a probe to tokens, on `Attention`'s parameters."""

    def pool(self, probe: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Probe (1, 1, D) over tokens (B, N, D) → (B, 1, D)."""
        width = probe.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        query = F.linear(probe, weight[:width], bias[:width]).expand(tokens.shape[0], -1, -1)
        q = query.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, 1, head_dim)
        keys_values = F.linear(tokens, weight[width:], bias[width:]).unflatten(-1, (2, self.heads, -1))
        k, v = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(q, k, v, mask)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def pool_frozen(self, probe: Tensor, tokens: Tensor) -> Tensor:
        """Compute `pool` at a fraction of its cost for tokens without gradient: keys and values are never computed.

        The keys' weights are applied to the probe, and the values' weights to what each head attends to. The keys' bias
        shifts all of a head's scores equally, so it drops out; the values' bias is added once.
        """
        width = probe.shape[-1]
        query = F.linear(probe[0, 0], self.in_proj_weight[:width], self.in_proj_bias[:width])
        _, keys, values = self.in_proj_weight.unflatten(0, (3, self.heads, -1)).unbind(0)  # (heads, head_dim, D)
        weights = torch.einsum("hd,hdw->hw", query.unflatten(0, (self.heads, -1)), keys)  # (heads, D)
        scores = tokens @ weights.T / (width // self.heads) ** 0.5  # (B, N, heads)
        attended = scores.softmax(dim=1).transpose(1, 2) @ tokens  # (B, heads, D)
        pooled = torch.einsum("bhw,hdw->bhd", attended, values).flatten(1) + self.in_proj_bias[2 * width :]
        return self.out_proj(pooled[:, None])


class AttentionPooling(nn.Module):
    """Pool tokens (B, N, D) to (B, D): the probe attends to all of them, then `x + mlp(layernorm(x))`."""

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attn = ProbeAttention(width, heads)
        self.layernorm = nn.LayerNorm(width)
        self.mlp = FeedForward(width, 4 * width)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        return self._finish(self.attn.pool(self.probe, tokens, mask))

    def forward_frozen(self, tokens: Tensor) -> Tensor:
        """Return the same at lower cost for tokens that need no gradient."""
        return self._finish(self.attn.pool_frozen(self.probe, tokens))

    def _finish(self, x: Tensor) -> Tensor:
        return (x + self.mlp(self.layernorm(x)))[:, 0]
