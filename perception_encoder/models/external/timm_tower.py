"""Vision transformers of timm as towers whose layers are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from perception_encoder.errors import ConfigError, MissingExtraError, UnknownModelError, WeightsUnavailableError
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.external.layer_encoders import Tower
from perception_encoder.models.seeded import drawn_from


def timm_tower(name: str, random: bool = False) -> Tower:
    """A model by timm's name (`vit_small_patch14_dinov2`, `local-dir:FOLDER` too), with its weights or random ones.

    Raises UnknownModelError, WeightsUnavailableError, and ConfigError where it is no plain vision transformer.
    """
    try:
        import timm
    except ImportError:
        raise MissingExtraError("timm", "train") from None
    model = _create(timm, name, random)
    plain = ("blocks", "patch_embed", "norm", "num_prefix_tokens", "forward_intermediates")
    if not all(hasattr(model, part) for part in plain):
        raise ConfigError(f"timm:{name} is a {type(model).__name__}; its layers are no plain vision transformer's")
    config = timm.data.resolve_model_data_config(model)
    height, width = config["input_size"][1:]
    patch = model.patch_embed.patch_size
    if patch[0] != patch[1]:
        raise ConfigError(f"timm:{name} has patches of {patch[0]}x{patch[1]}; only square ones can be looked at")
    return Tower(
        model=model,
        run=partial(_run, model),
        norm=model.norm,
        depth=len(model.blocks),
        patch_size=patch[0],
        image_size=(height, width),
        width=model.embed_dim,
        weight_hash=state_hash(model.state_dict()),
        mean=tuple(config["mean"]),
        deviation=tuple(config["std"]),
        class_token=getattr(model, "cls_token", None) is not None,
        fixed_size=not getattr(model, "dynamic_img_size", False),
    )


def _create(timm: Any, name: str, random: bool) -> Any:
    try:
        with drawn_from(torch.Generator().manual_seed(0)):
            try:
                return timm.create_model(name, pretrained=not random, num_classes=0, dynamic_img_size=True)
            except TypeError:  # one that takes pictures of one size only
                return timm.create_model(name, pretrained=not random, num_classes=0)
    except Exception as error:  # what a name, a hub and a file can make it raise is open-ended
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if "Unknown model" in reason:
            near = ", ".join(timm.list_models(f"*{name.partition('.')[0][:12]}*")[:3])
            hint = f"; did you mean {near}?" if near else ""
            raise UnknownModelError(f"timm has no model {name!r}{hint}") from None
        raise WeightsUnavailableError(
            f"the weights of timm:{name} could not be loaded ({reason}); take a folder: timm:local-dir:FOLDER"
        ) from error


def _run(model: Any, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
    found = model.forward_intermediates(
        pixels,
        indices=list(layers),
        return_prefix_tokens=bool(model.num_prefix_tokens),
        stop_early=True,
        output_fmt="NLC",
        intermediates_only=True,
    )
    return [torch.cat([pair[1], pair[0]], dim=1) if isinstance(pair, tuple) else pair for pair in found]
