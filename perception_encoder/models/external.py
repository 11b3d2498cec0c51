"""Models of other libraries behind one interface, embeddings and vision towers; those of timm and open_clip."""

from __future__ import annotations

import copy
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from perception_encoder.errors import (
    CheckpointError,
    ConfigError,
    MissingExtraError,
    PerceptionEncoderError,
    UnknownModelError,
    WeightsUnavailableError,
    one_line,
)
from perception_encoder.files import digest
from perception_encoder.models.checkpoints.find import hub_or_cache
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.missing_weights import check_none_missing, missing_weights, without_kernels
from perception_encoder.models.registry import needs_code, no_directory
from perception_encoder.models.tower import Tower
from perception_encoder.transfer import to_device

Mode = Literal["squash", "crop"]
"""How images become square: "crop" is a model's own test transform, "squash" resizes without cropping."""
Pixels = Mapping[str, np.ndarray]
"""An image as a library preprocesses it, by the name of the model's argument."""
Role = Literal["query", "document"] | None
"""An input's role, which chooses the prompt; None for the library's default."""


class Adapter(ABC):
    """A model of another library, with weights loaded on first use."""

    library: ClassVar[str]
    """Prefix of its models' names, before a colon."""
    distribution: ClassVar[str]
    modes: ClassVar[tuple[Mode, ...]] = ("squash", "crop")
    reads_images, reads_videos, reads_texts = True, False, False
    """`reads_videos`: whole, not frame by frame."""

    def __init__(self, name: str, listed: str, random: bool = False, trust_remote_code: bool = False) -> None:
        """Describe a model; no weights are loaded yet.

        Args:
            name: In this package, such as timm:NAME.
            listed: The library's own name.
            random: Use random weights of seed 0; only the vision tower remains.
            trust_remote_code: Run code that comes with the model, of transformers and sentence-transformers.
        """
        self.name, self.listed, self.random, self.trusted = name, listed, random, trust_remote_code
        self._tokenizing = threading.Lock()  # the libraries' tokenizers are for one thread at a time

    @cached_property
    def model(self) -> Any:
        """The library's module.

        Raises UnknownModelError, CheckpointError for a file without all weights, WeightsUnavailableError (also for a
        model that needs its own code), and MissingExtraError without the library.
        """
        place = self.listed.removeprefix("local-dir:")
        if no_directory(place) if self.library in ("hf", "st") else place != self.listed and not Path(place).is_dir():
            raise WeightsUnavailableError(f"{self.name} could not be loaded: there is no directory {place}")
        try:
            with self._hub():
                return self._create()
        except ImportError as error:
            if error.name != self.distribution.replace("-", "_").removesuffix("_torch"):
                raise WeightsUnavailableError(f"{self.name} could not be loaded: {one_line(error)}") from error
            raise MissingExtraError(self.distribution, "encoders") from None
        except PerceptionEncoderError:
            raise
        except Exception as error:  # what a name, a hub and a file can make a library raise is open-ended
            if "trust_remote_code" in str(error):
                raise WeightsUnavailableError(needs_code(self.name)) from None
            kind = UnknownModelError if "not found in" in str(error) else WeightsUnavailableError
            reason = one_line(error, first=True)
            raise kind(f"{self.name} could not be loaded: {reason}; give a directory as {self._copy}") from error

    def _hub(self) -> AbstractContextManager[None]:
        """Return the context in which its library may ask the hub: see `hub_or_cache`."""
        local = Path(self.listed.removeprefix("local-dir:")).is_dir()
        drawn = self.random and self.library in ("timm", "open_clip")
        return hub_or_cache(self.name, not local and not drawn, self._copy)

    @property
    def _copy(self) -> str:
        """How to name a directory of a model."""
        return f"{self.library}:{'' if self.library in ('hf', 'st') else 'local-dir:'}DIRECTORY"

    @abstractmethod
    def _create(self) -> Any:
        """Create the library's module, with weights of the library or, if `random`, of seed 0."""

    @property
    def has_output(self) -> bool:
        """Whether it has embeddings, not only a vision tower."""
        return True

    @contextmanager
    def _reading(self, failure: str) -> Iterator[None]:
        """Raise CheckpointError with `failure` for whatever a library raises over a damaged configuration."""
        try:
            with self._hub():
                yield
        except PerceptionEncoderError:
            raise
        except Exception as error:
            if "trust_remote_code" in str(error):
                raise WeightsUnavailableError(needs_code(self.name)) from None
            raise CheckpointError(f"{self.name}: {failure} ({one_line(error, first=True)})") from error

    def transform(self, mode: Mode) -> Callable[[Image.Image], Pixels]:
        """Return the library's transform of an RGB image; CheckpointError if it is damaged."""
        with self._reading("the preprocessing in its configuration is damaged"):
            transform = self._make_transform(mode)
            pixels = transform(Image.new("RGB", (8, 8)))
            if any(np.ndim(values) == 0 for values in pixels.values()):
                raise ValueError("it gives no pixels")
            return transform

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Pixels]:
        raise NotImplementedError

    def embed_images(self, images: Sequence[Pixels], role: Role) -> Tensor:
        """Return embeddings (B, D) of images as `transform` gives them."""
        parameter = next(self.model.parameters())

        def moved(name: str) -> Tensor:
            values = to_device(torch.from_numpy(np.stack([image[name] for image in images])), parameter.device)
            return values.to(parameter.dtype) if values.is_floating_point() else values

        return self.image_output({name: moved(name) for name in images[0]})

    def image_output(self, batch: dict[str, Tensor]) -> Tensor:
        """Return embeddings (B, D) of the model's arguments for images."""
        raise NotImplementedError

    def embed_video(self, frames: Sequence[Pixels], times: Sequence[float], role: Role) -> Tensor:
        """Return the embedding (D,) of a video's frames at `times` in seconds, NaN if unknown; if `reads_videos`."""
        raise NotImplementedError

    def embed_texts(self, texts: list[str], role: Role) -> Tensor:
        """Return embeddings (B, D) of texts."""
        device = next(self.model.parameters()).device
        tokens = {name: to_device(values, device) for name, values in self.tokens(texts, role).items()}
        return self.text_output(tokens, role)

    def tokens(self, texts: list[str], role: Role) -> Mapping[str, Tensor]:
        """Return the model's arguments for texts, int64 (B, T): token ids, and a mask if it takes one."""
        raise NotImplementedError

    def text_output(self, batch: dict[str, Tensor], role: Role) -> Tensor:
        """Return embeddings (B, D) of the model's arguments for texts."""
        raise NotImplementedError

    @cached_property
    def width(self) -> int:
        """Length D of its embeddings; CheckpointError if it gives none, or images and texts differ in it."""
        with self._reading("it gives no embeddings"), torch.inference_mode():
            shapes = set()
            if self.reads_images:
                shapes.add(tuple(self.embed_images([self.transform("crop")(Image.new("RGB", (32, 32)))], None).shape))
            if self.reads_texts:
                shapes.add(tuple(self.embed_texts(["a"], None).shape))
            if len(shapes) != 1 or len(min(shapes)) != 2:
                raise ValueError(f"one image or text has the shape {' or '.join(map(str, sorted(shapes)))}, not (1, D)")
            return int(min(shapes)[1])

    def part(self, role: Role) -> Role:
        """Return the role if more than the tokens of texts depends on it, else None."""
        return None

    @property
    def has_token_rows(self) -> bool:
        """Whether texts become token ids (B, T), for which OpenVINO can compile the model."""
        return self.reads_texts

    @cached_property
    def image_shape(self) -> tuple[int, ...] | None:
        """Shape (3, H, W) of all images' pixels, for which OpenVINO can compile the model; None if there is none."""
        return self._shape_of(self.transform("crop"))

    def _shape_of(self, transform: Callable[[Image.Image], Pixels]) -> tuple[int, ...] | None:
        values = [transform(Image.new("RGB", size)) for size in ((48, 32), (32, 48))]
        shapes = {tuple(pixels.shape for pixels in value.values()) for value in values}
        ((shape, *others), *further) = shapes
        return shape if len(shape) == 3 and not others and not further else None

    def of_one_size(self) -> Adapter:
        """Return the adapter of a module that gives the same for images of `image_shape`, and need not take others."""
        return self

    @property
    def prompts(self) -> dict[str, str]:
        """The prompts of each role that has one."""
        return {}

    @cached_property
    def logit_scale(self) -> float | None:
        """The trained factor of cosine similarities; None if the model has none."""
        scale = getattr(self._scored, "logit_scale", None)
        return None if scale is None else math.exp(float(scale))

    @cached_property
    def logit_bias(self) -> float | None:
        """The trained bias of a model of independent pairs (SigLIP), whose scores are sigmoids; None for a softmax."""
        bias = getattr(self._scored, "logit_bias", None)
        return None if bias is None else float(bias)

    @property
    def _scored(self) -> Any:
        """The module with the scale and the bias."""
        return self.model

    def tower(self) -> Tower:
        """Return its vision tower; ConfigError if it is not a plain vision transformer."""
        raise ConfigError(f"{self.name} has no readable layers; use a model of this package, timm: or hf:")

    @cached_property
    def weight_hash(self) -> str:
        """Hash of the weights."""
        return state_hash(self.model.state_dict())

    @cached_property
    def structure(self) -> str:
        """Hash of what the weights do not tell, such as the number of heads: the modules' types and plain values."""
        parts = [
            (name, type(module).__name__, sorted(item for item in vars(module).items() if _is_plain(item[1])))
            for name, module in self.model.named_modules()
        ]
        text = f"{parts} {getattr(self.model, 'config', '')}".replace(self.listed, "")  # which may be a path
        return digest(text)

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
            hint = f"did you mean {near}?" if near else "give a directory as timm:local-dir:DIRECTORY"
            raise UnknownModelError(f"{self.name} could not be loaded: timm has no model {self.listed!r}; {hint}")
        with drawn_from(torch.Generator().manual_seed(0)), missing_weights(nn.Module) as missing:
            try:
                model = timm.create_model(self.listed, pretrained=not self.random, num_classes=0, dynamic_img_size=True)
            except TypeError:  # one that takes images of one size only
                model = timm.create_model(self.listed, pretrained=not self.random, num_classes=0)
        check_none_missing(self.name, missing)
        return model

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Pixels]:
        from timm.data import create_transform, resolve_model_data_config

        squash = {"crop_mode": "squash", "crop_pct": 1.0} if mode == "squash" else {}
        transform: Any = create_transform(**{**resolve_model_data_config(self.model), **squash})
        return lambda image: {"image": transform(image).numpy()}

    def image_output(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model(batch["image"])

    def of_one_size(self) -> Adapter:
        assert self.image_shape is not None
        size, resizes = self.image_shape[1:], hasattr(self.model, "set_input_size")
        if not resizes or not getattr(self.model, "dynamic_img_size", False) or self.model.patch_embed.img_size == size:
            return self
        sized = copy.copy(self)
        sized.model = copy.deepcopy(self.model)
        sized.model.set_input_size(size)  # resamples the positions once: OpenVINO would do it in another way
        return sized

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
            raise WeightsUnavailableError(f"{message}, or open_clip:local-dir:DIRECTORY")
        if text_model := self._text_settings.get("hf_model_name"):
            self._check_no_code(text_model)
        trained = open_clip.get_pretrained_cfg(architecture, pretrained)  # empty for files and addresses
        quick = bool(trained.get("quick_gelu"))  # else OpenAI's weights get another activation, with only a warning
        return open_clip.create_model(
            architecture, None if located else pretrained, force_quick_gelu=quick, require_pretrained=True
        )

    @property
    def _text_settings(self) -> dict[str, Any]:
        """The settings of texts in its configuration."""
        import open_clip

        return (open_clip.get_model_config(self.listed.partition(",")[0]) or {}).get("text_cfg", {})

    def _check_no_code(self, text_model: str) -> None:
        """Raise WeightsUnavailableError for a model of transformers with its own code.

        open_clip would ask on the terminal whether to run it, and cannot be told the answer.
        """
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(text_model, trust_remote_code=False)
        stated = config._attn_implementation
        if getattr(config, "auto_map", None) or without_kernels(config)._attn_implementation != stated:
            raise WeightsUnavailableError(f"{self.name}: its text model runs code of its own, which is not supported")

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Pixels]:
        from open_clip.transform import PreprocessCfg, image_transform_v2

        config = PreprocessCfg(**self.model.visual.preprocess_cfg)
        squashed = replace(config, resize_mode="squash")
        transform: Any = image_transform_v2(squashed if mode == "squash" else config, is_train=False)
        return lambda image: {"image": transform(image).numpy()}

    @cached_property
    def tokenizer(self) -> Any:
        """The library's tokenizer; CheckpointError if it is missing or damaged."""
        import open_clip

        with self._reading("its tokenizer cannot be loaded"):
            # overrides what the model's own files ask for
            trust = {"trust_remote_code": self.trusted} if self._text_settings.get("hf_tokenizer_name") else {}
            tokenizer = open_clip.get_tokenizer(self.listed.partition(",")[0], **trust)
            tokenizer(["a"])  # fails without a token for padding
            return tokenizer

    def image_output(self, batch: dict[str, Tensor]) -> Tensor:
        return self.model.encode_image(batch["image"])

    def tokens(self, texts: list[str], role: Role) -> Mapping[str, Tensor]:
        tokenizer = self.tokenizer
        with self._tokenizing:
            return {"text": tokenizer(texts)}

    def text_output(self, batch: dict[str, Tensor], role: Role) -> Tensor:
        return self.model.encode_text(batch["text"])


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)
