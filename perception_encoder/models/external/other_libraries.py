"""Models of timm and open_clip as the evaluators take them, under both transforms.

`timm:NAME` gives pictures' vectors only; `open_clip:NAME,PRETRAINED` (a tag or a file) and `open_clip:hf-hub:…` or
`open_clip:local-dir:…` texts' too. "crop" is a model's own test transform, "squash" resizes without cropping.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from perception_encoder.errors import ConfigError, MissingExtraError, UnknownModelError, WeightsUnavailableError
from perception_encoder.models.checkpoints.weights import state_hash
from perception_encoder.models.precision import choose_device

LIBRARIES = ("timm:", "open_clip:")
BATCH = 64

Transform = Callable[[Image.Image], Tensor]


class LibraryEncoder:
    """A model of another library: vectors of pictures and, where it has a text tower, of texts."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        transform: Transform,
        images: Callable[[Tensor], Tensor],
        texts: Callable[[list[str]], Tensor] | None = None,
    ) -> None:
        """`images`: pixels (B, 3, H, W) to vectors (B, D); `texts`: likewise."""
        self.name, self.model, self.transform = name, model, transform
        self._images, self._texts = images, texts
        self._device = next(model.parameters()).device

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Vectors (B, D), float32, in the pictures' order, of unit length under `normalize`."""
        return _stacked(
            (
                self._images(torch.stack([self.transform(image.convert("RGB")) for image in some]).to(self._device))
                for some in _batches(images)
            ),
            normalize,
        )

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (B, D), float32, in the texts' order; ConfigError for a model without a text tower."""
        if self._texts is None:
            raise ConfigError(f"{self.name} has no text tower; measure it by k-NN or a probe")
        return _stacked((self._texts(list(some)) for some in _batches(texts)), normalize=True)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _stacked(batches: Iterator[Tensor], normalize: bool) -> np.ndarray:
    floats = (batch.float() for batch in batches)
    return torch.cat([(F.normalize(each, dim=-1) if normalize else each).cpu() for each in floats]).numpy()


def load_library(name: str) -> tuple[dict[str, LibraryEncoder], dict[str, str]]:
    """Load a model under "squash" and under "crop", and its `about`.

    Raises UnknownModelError, WeightsUnavailableError, and MissingExtraError where its library is not installed.
    """
    library, _, listed = name.partition(":")
    load = _timm_model if library == "timm" else _open_clip_model
    try:
        made = load(name, listed)
    except (ImportError, MissingExtraError):
        raise MissingExtraError("timm" if library == "timm" else "open_clip_torch", "eval") from None
    except (UnknownModelError, WeightsUnavailableError):
        raise
    except Exception as error:  # what a name, a hub and a file can make them raise is open-ended
        reason = (str(error) or type(error).__name__).splitlines()[0]
        kind = UnknownModelError if "nknown model" in reason or "not found in" in reason else WeightsUnavailableError
        raise kind(f"{name} could not be loaded: {reason}; a folder is given as {library}:local-dir:FOLDER") from error
    model = made["crop"].model
    return made, {"weights": state_hash(model.state_dict()), "dtype": "float32", library: _version(library)}


def timm_encoders(name: str, model: Any) -> dict[str, LibraryEncoder]:
    """A timm model without its classifier, by transform; it is put to evaluation on a GPU where there is one."""
    from timm.data import create_transform, resolve_model_data_config

    model = model.eval().to(choose_device())
    config = resolve_model_data_config(model)
    transforms = {
        "squash": create_transform(**{**config, "crop_mode": "squash", "crop_pct": 1.0}),
        "crop": create_transform(**config),
    }
    return {mode: LibraryEncoder(name, model, transform, model) for mode, transform in transforms.items()}


def open_clip_encoders(name: str, model: Any, tokenize: Callable[[list[str]], Tensor]) -> dict[str, LibraryEncoder]:
    """An open_clip model, by transform; it is put to evaluation on a GPU where there is one."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    model = model.eval().to(choose_device())
    config = PreprocessCfg(**model.visual.preprocess_cfg)
    transforms = {
        "squash": image_transform_v2(replace(config, resize_mode="squash"), is_train=False),
        "crop": image_transform_v2(replace(config, resize_mode="shortest"), is_train=False),
    }
    device = next(model.parameters()).device

    def texts(given: list[str]) -> Tensor:
        return model.encode_text(tokenize(given).to(device))

    return {mode: LibraryEncoder(name, model, made, model.encode_image, texts) for mode, made in transforms.items()}


def _timm_model(name: str, listed: str) -> dict[str, LibraryEncoder]:
    import timm

    return timm_encoders(name, timm.create_model(listed, pretrained=True, num_classes=0))


def _open_clip_model(name: str, listed: str) -> dict[str, LibraryEncoder]:
    import open_clip

    architecture, _, pretrained = listed.partition(",")
    placed = architecture.startswith(("hf-hub:", "local-dir:"))
    if not placed and not pretrained:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise WeightsUnavailableError(
            f"{name} names no weights; say open_clip:{architecture},TAG or a file (tags: {tags})"
        )
    model = open_clip.create_model(architecture, pretrained=None if placed else pretrained)
    return open_clip_encoders(name, model, open_clip.get_tokenizer(architecture))


def _version(library: str) -> str:
    from importlib.metadata import version

    return version("open_clip_torch" if library == "open_clip" else library)
