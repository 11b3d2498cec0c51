"""Checkpoint layouts: tables of the published names beside ours, timm's and open_clip's, used in both directions.

A row says under which name or names, and in which shape, a published tensor is stored in another layout.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

from perception_encoder.errors import CheckpointError
from perception_encoder.models.config import VisionConfig

StateDict = dict[str, Tensor]

_BLOCK = (
    ("ln_1.", "norm1."),
    ("attn.in_proj_", "attn.qkv."),
    ("attn.out_proj.", "attn.proj."),
    ("ln_2.", "norm2."),
    ("mlp.c_fc.", "mlp.fc1."),
    ("mlp.c_proj.", "mlp.fc2."),
)
"""Layers of a block, by the beginnings of the names of their weights and biases."""
_POOL = (
    ("attn_pool.attn.out_proj.", "attn_pool.proj."),
    ("attn_pool.layernorm.", "attn_pool.norm."),
    ("attn_pool.mlp.c_fc.", "attn_pool.mlp.fc1."),
    ("attn_pool.mlp.c_proj.", "attn_pool.mlp.fc2."),
)
_TEXT = ("positional_embedding", "text_projection", "token_embedding.", "transformer.resblocks.", "ln_final.")


@dataclass(frozen=True)
class _Row:
    published: str
    other: tuple[str, ...]
    to_other: Callable[[Tensor], tuple[Tensor, ...]]
    from_other: Callable[..., Tensor]


def _renamed(published: str, other: str) -> _Row:
    return _Row(published, (other,), lambda t: (t,), lambda t: t)


def _layer(published: str, other: str) -> list[_Row]:
    return [_renamed(published + kind, other + kind) for kind in ("weight", "bias")]


def _split_queries(tensor: Tensor) -> tuple[Tensor, ...]:
    third = len(tensor) // 3
    return tensor[:third].clone(), tensor[third:].clone()  # copies, as a file wants them


def _timm_rows(config: VisionConfig) -> list[_Row]:
    rows = [_renamed("conv1.weight", "patch_embed.proj.weight"), *_layer("ln_pre.", "norm_pre.")]
    if config.class_token:
        rows.append(_Row("class_embedding", ("cls_token",), lambda t: (t[None, None],), lambda t: t[0, 0]))
    rows.append(_Row("positional_embedding", ("pos_embed",), lambda t: (t[None],), lambda t: t[0]))
    for n in range(config.depth):
        for here, there in _BLOCK:
            rows += _layer(f"transformer.resblocks.{n}.{here}", f"blocks.{n}.{there}")
        for branch in (1, 2) if config.layer_scale is not None else ():
            rows.append(_renamed(f"transformer.resblocks.{n}.ls_{branch}.gamma", f"blocks.{n}.gamma_{branch}"))
    if config.final_norm:
        rows += _layer("ln_post.", "norm.")
    if config.attention_pool:
        rows.append(_renamed("attn_pool.probe", "attn_pool.latent"))
        rows += chain.from_iterable(_layer(*names) for names in _POOL)
        for kind in ("weight", "bias"):
            names = f"attn_pool.q.{kind}", f"attn_pool.kv.{kind}"  # of queries, and of keys and values
            rows.append(_Row(f"attn_pool.attn.in_proj_{kind}", names, _split_queries, lambda q, kv: torch.cat([q, kv])))
    if config.output_dim:
        rows.append(
            _Row(
                "proj",
                ("head.weight", "head.bias"),  # the bias is zero: the published projection has none
                lambda t: (t.T.contiguous(), t.new_zeros(t.shape[1])),
                _projection_from_head,
            )
        )
    return rows


def _projection_from_head(weight: Tensor, bias: Tensor) -> Tensor:
    if bias.count_nonzero():
        raise CheckpointError("head.bias is not zero: this is a new classifier, not PE's projection")
    return weight.T.contiguous()


def unwrap(state: object) -> StateDict:
    """Undo trainers' additions to a state dict: a nesting level or two, a `module.` prefix."""
    for key in ("state_dict", "weights", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"not a state dict, but a {type(state).__name__}")
    other = [str(name) for name, value in state.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if other:
        raise CheckpointError(f"not a plain state dict: {', '.join(other[:3])} is not a named tensor")
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def detect_layout(names: Mapping[str, object]) -> str:
    """Return the layout of a checkpoint's names: "published", "native" (ours), "timm" or "open_clip"."""
    if any(name.startswith("visual.trunk.") for name in names):
        return "open_clip"
    if "patch_embed.proj.weight" in names:
        return "timm"
    if "text.token_embedding.weight" in names:
        return "native"
    if "visual.conv1.weight" in names or "conv1.weight" in names:
        return "published"
    listed = ", ".join(list(names)[:3]) or "nothing"
    raise CheckpointError(
        f"not a Perception Encoder checkpoint: it has {listed}, …; known layouts are those of the published .pt, timm "
        "and open_clip"
    )


def to_published(state: StateDict, config: VisionConfig) -> StateDict:
    """Return a checkpoint of any layout under the published names; tensors without a row keep their names."""
    layout = detect_layout(state)
    if layout == "published":
        return state
    if layout == "native":
        return {name.removeprefix("text."): tensor for name, tensor in state.items()}
    prefix_here, prefix_there = ("visual.", "visual.trunk.") if layout == "open_clip" else ("", "")
    rest, result = dict(state), {}
    for row in _timm_rows(config):
        parts = [rest.pop(prefix_there + name, None) for name in row.other]
        if any(part is None for part in parts):
            rest |= {prefix_there + n: p for n, p in zip(row.other, parts, strict=True) if p is not None}
            continue  # the strict load reports what is missing
        result[prefix_here + row.published] = row.from_other(*parts)
    return result | {name.removeprefix("text."): tensor for name, tensor in rest.items()}


def from_published(state: StateDict, config: VisionConfig, layout: str) -> StateDict:
    """Convert published names to `layout`; timm's omits the text tower."""
    if layout == "published":
        return state
    two_towers = "visual.conv1.weight" in state
    if layout == "open_clip" and not two_towers:
        raise CheckpointError("open_clip has only two-tower models; use the timm layout")
    prefix_here = "visual." if two_towers else ""
    prefix_there = "visual.trunk." if layout == "open_clip" else ""
    result: StateDict = {}
    for row in _timm_rows(config):
        parts = row.to_other(state[prefix_here + row.published])
        result |= {prefix_there + name: part for name, part in zip(row.other, parts, strict=True)}
    if layout == "open_clip":
        result["logit_scale"] = state["logit_scale"]
        result |= {f"text.{name}": tensor for name, tensor in state.items() if name.startswith(_TEXT)}
    return result
