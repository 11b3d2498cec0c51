"""Models of timm: embeddings of images, and the tokens of plain vision transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.models.external.adapter import Adapter, Mode
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.tower import Tower

_PLAIN = ("blocks", "patch_embed", "norm", "num_prefix_tokens", "forward_intermediates")


class TimmModel(Adapter):
    """A model by timm's name (`vit_small_patch14_dinov2`, `local-dir:DIRECTORY`), without its classifier."""

    library, distribution = "timm", "timm"

    def _create(self) -> Any:
        import timm

        if ":" not in self.listed and not timm.is_model(self.listed):
            near = ", ".join(timm.list_models(f"*{self.listed.partition('.')[0][:12]}*")[:3])
            hint = f"; did you mean {near}?" if near else ""
            raise UnknownModelError(f"{self.name} could not be loaded: timm has no model {self.listed!r}{hint}")
        with drawn_from(torch.Generator().manual_seed(0)):
            try:
                return timm.create_model(self.listed, pretrained=not self.random, num_classes=0, dynamic_img_size=True)
            except TypeError:  # one that takes images of one size only
                return timm.create_model(self.listed, pretrained=not self.random, num_classes=0)

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Tensor]:
        from timm.data import create_transform, resolve_model_data_config

        squash = {"crop_mode": "squash", "crop_pct": 1.0} if mode == "squash" else {}
        transform: Any = create_transform(**{**resolve_model_data_config(self.model), **squash})
        return transform

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        return self.model(pixels)

    def tower(self) -> Tower:
        model = self.model
        if not all(hasattr(model, part) for part in _PLAIN):
            raise ConfigError(f"{self.name} is a {type(model).__name__}, not a plain vision transformer")
        import timm

        config = timm.data.resolve_model_data_config(model)
        patch = model.patch_embed.patch_size
        if patch[0] != patch[1]:
            raise ConfigError(f"{self.name} has patches of {patch[0]}x{patch[1]}; only square ones are supported")
        return TimmTower(
            model=model,
            norm=model.norm,
            depth=len(model.blocks),
            patch_size=patch[0],
            image_size=tuple(config["input_size"][1:]),
            width=model.embed_dim,
            weight_hash=self.weight_hash,
            mean=tuple(config["mean"]),
            deviation=tuple(config["std"]),
            class_token=getattr(model, "cls_token", None) is not None,
            fixed_size=not getattr(model, "dynamic_img_size", False),
        )


class TimmTower(Tower):
    """A vision transformer of timm."""

    def run(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        model: Any = self.model
        features = model.forward_intermediates(
            pixels,
            indices=list(layers),
            return_prefix_tokens=bool(model.num_prefix_tokens),
            stop_early=True,
            output_fmt="NLC",
            intermediates_only=True,
        )
        return [torch.cat([pair[1], pair[0]], dim=1) if isinstance(pair, tuple) else pair for pair in features]
