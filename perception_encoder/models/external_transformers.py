"""Models of transformers: two towers that embed, and the layers of vision transformers.

The vision model of a two-tower model (CLIP, SigLIP) is taken. Its tokens are read off the blocks by hooks, because the
last of the library's `hidden_states` is normed for some models and not for others.
"""

from __future__ import annotations

import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from perception_encoder.errors import ConfigError, one_line
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.external import Adapter, Mode, Pixels, Role
from perception_encoder.models.initialization import drawn_from
from perception_encoder.models.missing_weights import check_none_missing, missing_weights, without_kernels
from perception_encoder.models.tower import Tower
from perception_encoder.progress import quiet_loading
from perception_encoder.records import from_fields


class TransformersModel(Adapter):
    """A model by its hub name or directory; one of two towers (CLIP, SigLIP) has embeddings, and reads texts."""

    library, distribution = "hf", "transformers"

    @quiet_loading()
    def _create(self) -> Any:
        from transformers import AutoConfig, AutoModel, PreTrainedModel

        if self.random:
            with drawn_from(torch.Generator().manual_seed(0)):
                config = AutoConfig.from_pretrained(self.listed, trust_remote_code=self.trusted)
                return AutoModel.from_config(without_kernels(config), trust_remote_code=self.trusted)
        with missing_weights(PreTrainedModel) as missing:
            model = AutoModel.from_pretrained(self.listed, trust_remote_code=self.trusted)
        pools = is_two_tower(model)  # else its tokens are read
        check_none_missing(self.name, [key for key in missing if pools or "pooler" not in key])
        return model

    @property
    def has_output(self) -> bool:
        return not self.random and is_two_tower(self.model)

    @property
    def reads_texts(self) -> bool:  # type: ignore[override]
        return self.has_output

    @cached_property
    def _image_processor(self) -> Any:
        from transformers import AutoImageProcessor

        return AutoImageProcessor.from_pretrained(self.listed, trust_remote_code=self.trusted)

    def _make_transform(self, mode: Mode) -> Callable[[Image.Image], Pixels]:
        processor = self._image_processor
        options: dict[str, Any] = {"return_tensors": "pt"}
        if mode == "squash" and getattr(processor, "do_center_crop", False):
            crop = processor.crop_size
            options |= {"do_center_crop": False, "size": {"height": crop["height"], "width": crop["width"]}}

        def transform(image: Image.Image) -> Pixels:
            return {name: values[0].numpy() for name, values in processor(images=[image], **options).items()}

        return transform

    def image_output(self, batch: dict[str, Tensor]) -> Tensor:
        found = self.model.get_image_features(**batch)
        return getattr(found, "pooler_output", found)

    @cached_property
    def tokenizer(self) -> Any:
        """The library's tokenizer; CheckpointError if it is missing or damaged."""
        from transformers import AutoTokenizer

        with self._reading("its tokenizer cannot be loaded"):
            tokenizer = AutoTokenizer.from_pretrained(self.listed, trust_remote_code=self.trusted)
            check_tokenizer(tokenizer)
            return tokenizer

    def tokens(self, texts: list[str], role: Role) -> Mapping[str, Tensor]:
        config, tokenizer = self.model.config, self.tokenizer
        positions = getattr(getattr(config, "text_config", None), "max_position_embeddings", math.inf)
        length = int(min(positions, tokenizer.model_max_length))
        padding = "max_length" if "siglip" in config.model_type else True  # as it was trained
        with self._tokenizing:
            return tokenizer(texts, padding=padding, truncation=True, max_length=length, return_tensors="pt")

    def text_output(self, batch: dict[str, Tensor], role: Role) -> Tensor:
        found = self.model.get_text_features(**batch)
        return getattr(found, "pooler_output", found)

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
            with self._hub():
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


def check_tokenizer(tokenizer: Any) -> None:
    """Raise ValueError for an empty one, which transformers makes of some models whose files are missing."""
    if tokenizer("cat")["input_ids"] == tokenizer("dog")["input_ids"]:
        raise ValueError("it knows no words: are its files missing?")


@contextmanager
def traceable_masks() -> Iterator[None]:
    """Make attention masks by broadcasting, since torch cannot trace `vmap`.

    Padding out of reach of all tokens, as in a sliding window, attends to everything: OpenVINO's softmax of nothing is
    NaN, torch's is 0. Other tokens do not see it.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS as functions

    usual = functions["sdpa"]

    def mask(*args: Any, **options: Any) -> Tensor | None:
        found: Tensor | None = usual(*args, **{**options, "use_vmap": False})
        return None if found is None else found | ~found.any(dim=-1, keepdim=True)

    functions["sdpa"] = mask
    try:
        yield
    finally:
        functions["sdpa"] = usual


def is_two_tower(model: Any) -> bool:
    """Return whether a model of transformers, or its class, has embeddings of images and texts."""
    return all(hasattr(model, name) for name in ("get_image_features", "get_text_features"))


@dataclass(frozen=True, kw_only=True)
class TransformersTower(Tower):
    """A vision transformer of transformers."""

    blocks: nn.ModuleList

    def run(self, pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        outputs: dict[nn.Module, Tensor] = {}
        thread = threading.get_ident()  # others compute at the same time

        def keep(block: nn.Module, inputs: Any, output: Any) -> None:
            if threading.get_ident() == thread:
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
