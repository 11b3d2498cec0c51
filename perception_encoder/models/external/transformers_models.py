"""Models of Hugging Face's transformers: the tokens of vision transformers.

The vision model of a two-tower model (CLIP, SigLIP) is taken. Tokens are read off the blocks by hooks, because the last
of the library's `hidden_states` is normed for some models and not for others.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from perception_encoder.errors import CheckpointError, ConfigError, one_line
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.external.adapter import Adapter
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.tower import Tower
from perception_encoder.records import from_fields

CLASS_TOKENS = ("cls_token", "class_embedding")
"""Names of the class token's parameter; the token stands first."""
FINAL_NORMS = ("layernorm", "norm", "post_layernorm")
"""Names of the norm after the blocks."""


@dataclass(frozen=True)
class _Pixels:
    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]


class TransformersModel(Adapter):
    """A model by its hub name or directory."""

    library, distribution, extra, has_output = "hf", "transformers", "lang", False

    def _create(self) -> Any:
        from transformers import AutoConfig, AutoModel

        if self.random:
            with drawn_from(torch.Generator().manual_seed(0)):
                config = AutoConfig.from_pretrained(self.listed, trust_remote_code=False)
                return AutoModel.from_config(config, trust_remote_code=False)
        model, loading = AutoModel.from_pretrained(self.listed, output_loading_info=True, trust_remote_code=False)
        missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
        if missing:
            raise CheckpointError(f"{self.name} lacks the weights {missing[0]} and {len(missing) - 1} others")
        return model

    def tower(self) -> Tower:
        vision: Any = getattr(self.model, "vision_model", self.model)
        from transformers.image_processing_base import ImageProcessingMixin

        try:
            side, patch, width, depth = (
                int(getattr(vision.config, field))
                for field in ("image_size", "patch_size", "hidden_size", "num_hidden_layers")
            )
            blocks = next(m for m in vision.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)
        except (AttributeError, TypeError, StopIteration):
            kind = type(self.model).__name__
            raise ConfigError(f"{self.name} is a {kind}, not a plain vision transformer") from None
        try:
            processor, _ = ImageProcessingMixin.get_image_processor_dict(self.listed)
            pixels = from_fields(_Pixels, {name: processor[name] for name in ("image_mean", "image_std")})
        except (OSError, ValueError, TypeError, KeyError) as error:
            wanted = "no preprocessor_config.json with the pixels' mean and deviation, three numbers each"
            raise ConfigError(f"{self.name} has {wanted}; add it ({one_line(error)})") from None
        return TransformersTower(
            model=vision,
            blocks=blocks,
            norm=_final_norm(vision),
            depth=depth,
            patch_size=patch,
            image_size=(side, side),
            width=width,
            weight_hash=state_hash(vision.state_dict()),
            mean=pixels.image_mean,
            deviation=pixels.image_std,
            class_token=any(n.rpartition(".")[2] in CLASS_TOKENS for n, _ in vision.named_parameters()),
        )


@dataclass(frozen=True, kw_only=True)
class TransformersTower(Tower):
    """A vision transformer of transformers."""

    blocks: nn.ModuleList

    def run(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        outputs: dict[nn.Module, Tensor] = {}

        def keep(block: nn.Module, inputs: Any, output: Any) -> None:
            outputs[block] = output[0] if isinstance(output, tuple) else output

        takes_sizes = "interpolate_pos_encoding" in inspect.signature(self.model.forward).parameters
        with ExitStack() as hooks:
            for layer in layers:
                hooks.callback(self.blocks[layer].register_forward_hook(keep).remove)
            self.model(pixels, interpolate_pos_encoding=True) if takes_sizes else self.model(pixels)
        return [outputs[self.blocks[layer]] for layer in layers]


def _final_norm(vision: nn.Module) -> nn.Module:
    """The norm after the blocks, the outermost that has one of the names; the identity if there is none."""
    norms = [(n.count("."), n, m) for n, m in vision.named_modules() if n.rpartition(".")[2] in FINAL_NORMS]
    outer = [(depth, n, m) for depth, n, m in norms if not any(part.isdigit() for part in n.split("."))]
    return min(outer, key=lambda norm: norm[:2])[2] if outer else nn.Identity()
