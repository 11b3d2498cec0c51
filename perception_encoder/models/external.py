"""Models of timm, open_clip and transformers behind one interface: their embeddings and their vision towers.

The vision model of a two-tower model of transformers (CLIP, SigLIP) is taken. Its tokens are read off the blocks by
hooks, because the last of the library's `hidden_states` is normed for some models and not for others.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import torch
from PIL import Image
from torch import Tensor, nn

from perception_encoder.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    ModelError,
    UnknownModelError,
    WeightsUnavailableError,
    one_line,
)
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.tower import Tower
from perception_encoder.records import from_fields

Mode = Literal["squash", "crop"]
"""How images become square: "crop" is a model's own test transform, "squash" resizes without cropping."""


class Adapter(ABC):
    """A model of another library, with weights loaded on first use."""

    library: ClassVar[str]
    """Prefix of its models' names, before a colon."""
    distribution: ClassVar[str]
    extra: ClassVar[str] = "eval"
    has_output: ClassVar[bool] = True
    """Whether its models have embeddings."""
    reads_texts: ClassVar[bool] = False

    def __init__(self, name: str, listed: str, random: bool = False) -> None:
        """`listed`: the library's own name. `random`: use random weights of seed 0; only the vision tower remains."""
        self.name, self.listed, self.random = name, listed, random

    @cached_property
    def model(self) -> Any:
        """The library's module.

        Raises UnknownModelError, CheckpointError, WeightsUnavailableError, and MissingExtraError without the library.
        """
        try:
            return self._create()
        except ImportError:
            raise MissingExtraError(self.distribution, self.extra) from None
        except ModelError:
            raise
        except Exception as error:  # what a name, a hub and a file can make a library raise is open-ended
            kind = UnknownModelError if "not found in" in str(error) else WeightsUnavailableError
            directory = "DIRECTORY" if self.library == "hf" else "local-dir:DIRECTORY"
            reason = one_line(error, first=True)
            message = f"{self.name} could not be loaded: {reason}; give a directory as {self.library}:{directory}"
            raise kind(message) from error

    @abstractmethod
    def _create(self) -> Any:
        """Create the library's module, with weights of the library or, if `random`, of seed 0."""

    def transform(self, mode: Mode) -> Callable[[Image.Image], Tensor]:
        """Return the library's transform, from an RGB image to pixels (3, H, W); CheckpointError if it is damaged."""
        try:
            transform = self._make_transform(mode)
            if transform(Image.new("RGB", (8, 8))).ndim != 3:
                raise ValueError("it gives no pixels")
            return transform
        except Exception as error:  # what a damaged configuration makes a library raise is open-ended
            reason = one_line(error, first=True)
            message = f"{self.name}: the preprocessing in its configuration is damaged ({reason})"
            raise CheckpointError(message) from error

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Tensor]:
        raise NotImplementedError

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Return embeddings (B, D) of pixels (B, 3, H, W)."""
        raise NotImplementedError

    def embed_texts(self, texts: list[str], device: torch.device) -> Tensor:
        """Return embeddings (B, D) of texts."""
        raise NotImplementedError

    def tower(self) -> Tower:
        """Return its vision tower; ConfigError if it is not a plain vision transformer."""
        raise ConfigError(f"{self.name} has no readable layers; use a model of this package, timm: or hf:")

    @cached_property
    def weight_hash(self) -> str:
        """Hash of the weights."""
        return state_hash(self.model.state_dict())

    @property
    def versions(self) -> dict[str, str]:
        """The version of the library."""
        return {self.library: version(self.distribution)}


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
        if not all(hasattr(model, name) for name in ("blocks", "patch_embed", "norm", "num_prefix_tokens")):
            raise ConfigError(f"{self.name} is a {type(model).__name__}, not a plain vision transformer")
        import timm

        config = timm.data.resolve_model_data_config(model)
        patch = model.patch_embed.patch_size
        if patch[0] != patch[1]:
            raise ConfigError(f"{self.name} has patches of {patch[0]}x{patch[1]}; only square ones are supported")
        return Tower(
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


class OpenClipModel(Adapter):
    """A model by open_clip's names: `NAME,PRETRAINED` (a tag or a file), `hf-hub:…` or `local-dir:…`."""

    library, distribution, reads_texts = "open_clip", "open_clip_torch", True

    def _create(self) -> Any:
        import open_clip

        architecture, _, pretrained = self.listed.partition(",")
        located = architecture.startswith(("hf-hub:", "local-dir:"))
        if not located and not pretrained:
            tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
            message = f"{self.name} names no weights; give open_clip:{architecture},TAG or a file (tags: {tags})"
            raise WeightsUnavailableError(message)
        return open_clip.create_model(architecture, pretrained=None if located else pretrained)

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Tensor]:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        resize_mode = "squash" if mode == "squash" else "shortest"
        config = replace(PreprocessCfg(**self.model.visual.preprocess_cfg), resize_mode=resize_mode)
        transform: Any = image_transform_v2(config, is_train=False)
        return transform

    @cached_property
    def tokenize(self) -> Callable[[list[str]], Tensor]:
        """The model's tokenizer."""
        import open_clip

        return open_clip.get_tokenizer(self.listed.partition(",")[0])

    def embed_pixels(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def embed_texts(self, texts: list[str], device: torch.device) -> Tensor:
        return self.model.encode_text(self.tokenize(texts).to(device))


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
            mean = from_fields(tuple[float, float, float], processor["image_mean"])
            deviation = from_fields(tuple[float, float, float], processor["image_std"])
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
            mean=mean,
            deviation=deviation,
            class_token=any(n.endswith(("cls_token", "class_embedding")) for n, _ in vision.named_parameters()),
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
    """Return the norm after the blocks: the outermost with one of its names, else the identity."""
    known = ("layernorm", "norm", "post_layernorm")
    outer = {
        name: module
        for name, module in vision.named_modules()
        if name.rpartition(".")[2] in known and not any(part.isdigit() for part in name.split("."))
    }
    return outer[min(outer, key=lambda name: (name.count("."), name))] if outer else nn.Identity()
