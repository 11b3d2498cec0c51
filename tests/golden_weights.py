"""Weights and inputs that anyone can rebuild: each parameter is a function of its published name and shape."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch

from perception_encoder.models.checkpoints.weights import Model, published_state_dict

_NORMS = ("ln_pre.weight", "ln_post.weight", "ln_1.weight", "ln_2.weight", "ln_final.weight", "layernorm.weight")


def _noise(key: int, shape: tuple[int, ...]) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(key=key))
    return generator.standard_normal(math.prod(shape), dtype=np.float32).reshape(shape)


def golden_tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The value of the parameter `name`."""
    if name.endswith("logit_scale"):
        return torch.tensor(math.log(100.0))
    n = _noise(zlib.crc32(name.encode()), shape)
    if name.endswith(_NORMS):
        n = 1 + np.float32(0.1) * n
    elif name.endswith("gamma"):
        n = np.float32(0.1) * (1 + np.float32(0.1) * n)
    elif name.endswith(("positional_embedding", "class_embedding")):
        n *= np.float32(0.1)
    elif name.endswith(("bias", "token_embedding.weight")):
        n *= np.float32(0.02)
    elif name.endswith(("visual.proj", "text_projection")) or name == "proj":
        n /= np.float32(math.sqrt(shape[0]))
    elif not name.endswith("probe"):
        n /= np.float32(math.sqrt(math.prod(shape[1:])))
    return torch.from_numpy(n)


def fill(model: Model, known: Mapping[str, torch.Tensor] | None = None) -> dict[str, torch.Tensor]:
    """Give a model on the meta device its golden weights; returns them, the very tensors, by published name.

    `known`: those of another model, of which equal ones are taken; to draw millions takes seconds.
    """
    published = published_state_dict(model)
    state = {}
    for name, tensor in published.items():
        old = (known or {}).get(name)
        same = old is not None and old.shape == tensor.shape
        state[name] = old if same else golden_tensor(name, tuple(tensor.shape))
    model.load_state_dict(dict(zip(model.state_dict(), (state[name] for name in published), strict=True)), assign=True)
    model.requires_grad_().train(False)
    return state


def golden_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A state dict under the published names."""
    return {name: golden_tensor(name, shape) for name, shape in shapes.items()}


def golden_image(seed: int, *shape: int) -> torch.Tensor:
    """A picture of clipped noise."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32).clip(-1, 1))
