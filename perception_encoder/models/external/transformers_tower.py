"""Vision transformers of Hugging Face's transformers as towers whose layers are looked at.

Of a two-tower model (CLIP, SigLIP) the vision model is taken. Tokens are read off the blocks as they leave them, for
what the library calls `hidden_states` ends normed for some models and not for others.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from perception_encoder.errors import CheckpointError, ConfigError, MissingExtraError, WeightsUnavailableError
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.external.layer_encoders import Tower
from perception_encoder.models.seeded import drawn_from

CLASS_TOKENS = ("cls_token", "class_embedding")
"""What the parameter of the class token is called; it stands first."""
FINAL_NORMS = ("layernorm", "norm", "post_layernorm")
"""What the norm after the blocks is called."""


def transformers_tower(name: str, random: bool = False) -> Tower:
    """A model by its hub name or folder, with its weights or random ones.

    Raises WeightsUnavailableError, CheckpointError where weights are missing in what is there, and ConfigError where
    it is no plain vision transformer.
    """
    try:
        from transformers.image_processing_base import ImageProcessingMixin
    except ImportError:
        raise MissingExtraError("transformers", "lang") from None
    model = _load(name, random)
    vision: Any = getattr(model, "vision_model", model)
    config = vision.config
    try:
        side, patch, width, depth = (
            int(getattr(config, field)) for field in ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
        )
        blocks = next(m for m in vision.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
    except (AttributeError, TypeError, StopIteration):
        kind = type(model).__name__
        raise ConfigError(f"hf:{name} is a {kind}; its layers are no plain vision transformer's") from None
    try:
        said, _ = ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        raise ConfigError(f"hf:{name} has no preprocessor_config.json, which says the pixels' mean; add it") from None
    return Tower(
        model=vision,
        run=partial(_run, vision, blocks),
        norm=_final_norm(vision),
        depth=depth,
        patch_size=patch,
        image_size=(side, side),
        width=width,
        weight_hash=state_hash(vision.state_dict()),
        mean=tuple(said["image_mean"]),
        deviation=tuple(said["image_std"]),
        class_token=any(n.rpartition(".")[2] in CLASS_TOKENS for n, _ in vision.named_parameters()),
    )


def _load(name: str, random: bool) -> Any:
    from transformers import AutoConfig, AutoModel

    try:
        if random:
            with drawn_from(torch.Generator().manual_seed(0)):
                config = AutoConfig.from_pretrained(name, trust_remote_code=False)
                return AutoModel.from_config(config, trust_remote_code=False)
        model, loading = AutoModel.from_pretrained(name, output_loading_info=True, trust_remote_code=False)
    except Exception as error:  # what a name, a hub and a file can make it raise is open-ended
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsUnavailableError(f"hf:{name} could not be loaded ({reason}); take a folder: hf:FOLDER") from error
    missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
    if missing:
        raise CheckpointError(f"hf:{name} lacks the weights {missing[0]} and {len(missing) - 1} others")
    return model


def _final_norm(vision: nn.Module) -> nn.Module:
    """The norm after the blocks, the outermost that has one of the names; nothing where there is none."""
    named = [(n.count("."), n, m) for n, m in vision.named_modules() if n.rpartition(".")[2] in FINAL_NORMS]
    outer = [(depth, n, m) for depth, n, m in named if not any(part.isdigit() for part in n.split("."))]
    return min(outer, key=lambda found: found[:2])[2] if outer else nn.Identity()


def _run(vision: Any, blocks: nn.ModuleList, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
    takes_sizes = "interpolate_pos_encoding" in inspect.signature(vision.forward).parameters
    with _kept(blocks, layers) as outputs:
        vision(pixels, interpolate_pos_encoding=True) if takes_sizes else vision(pixels)
    return [outputs[layer] for layer in layers]


@contextmanager
def _kept(blocks: nn.ModuleList, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Keep what some blocks give while the block of code runs."""
    outputs: dict[int, Tensor] = {}

    def keep(layer: int, module: nn.Module, given: Any, output: Any) -> None:
        outputs[layer] = output[0] if isinstance(output, tuple) else output

    hooks = [blocks[layer].register_forward_hook(partial(keep, layer)) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
