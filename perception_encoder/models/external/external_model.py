"""A model of another library: embeddings of images and texts, and tokens of its layers, as far as it has them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

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
from perception_encoder.models.precision import choose_device
from perception_encoder.models.tower import Tower

BATCH = 64
Mode = Literal["squash", "crop"]
"""A transform: "crop" is a model's own test transform, "squash" resizes without cropping."""


class ExternalModel(ABC):
    """A model of another library; its weights are loaded when they are first needed."""

    library: ClassVar[str]
    """What its models' names begin with, before a colon."""
    distribution: ClassVar[str]
    extra: ClassVar[str] = "eval"

    def __init__(self, name: str, listed: str, random: bool = False) -> None:
        """`listed`: the library's own name. `random`: random weights of seed 0; such a model is a tower alone."""
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

    def encoder(self, mode: Mode) -> ExternalEncoder:
        """Its embeddings under a transform; ConfigError for a model that is a vision tower alone."""
        raise ConfigError(f"{self.name} is only a vision tower, without texts; evaluate it by k-NN or a probe")

    def tower(self) -> Tower:
        """Its vision tower; ConfigError if it is not a plain vision transformer."""
        raise ConfigError(f"{self.name} cannot be taken at a layer; this package's models, timm: and hf: can")

    def about(self) -> dict[str, str]:
        """What its embeddings depend on, apart from inputs and transform."""
        hashed = state_hash(self.model.state_dict())
        return {"weights": hashed, "dtype": "float32", self.library: version(self.distribution)}


class ExternalEncoder(ABC):
    """Embeddings of images and, if the model has a text tower, of texts, on a CUDA GPU if there is one."""

    def __init__(self, name: str, model: Any, make_transform: Callable[[], Callable[[Image.Image], Tensor]]) -> None:
        """`make_transform` gives the library's, an RGB image to pixels (3, H, W); CheckpointError if that fails."""
        self.name, self.device = name, choose_device()
        try:
            self.transform = make_transform()
            if self.transform(Image.new("RGB", (8, 8))).ndim != 3:
                raise ValueError("it gives no pixels")
        except Exception as error:  # what a damaged configuration makes a library raise is open-ended
            reason = one_line(error, first=True)
            raise CheckpointError(f"{name}: the preprocessing in its configuration is damaged ({reason})") from error
        self.model = model.eval().to(self.device)

    @abstractmethod
    def embed_pixels(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) to embeddings (B, D)."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Texts to embeddings (B, D)."""
        raise ConfigError(f"{self.name} has no text tower; evaluate it by k-NN or a probe")

    @torch.inference_mode()
    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        """Embeddings (B, D), float32, in the images' order, of unit length under `normalize`."""
        batches = (torch.stack([self.transform(image.convert("RGB")) for image in some]) for some in _batches(images))
        return _stacked((self.embed_pixels(pixels.to(self.device)) for pixels in batches), normalize)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit embeddings (B, D), float32, in the texts' order; ConfigError for a model without a text tower."""
        return _stacked((self.embed_texts(list(some)) for some in _batches(texts)), normalize=True)


def _batches(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), BATCH):
        yield items[start : start + BATCH]


def _stacked(batches: Iterator[Tensor], normalize: bool) -> np.ndarray:
    floats = (batch.float() for batch in batches)
    return torch.cat([(F.normalize(each, dim=-1) if normalize else each).cpu() for each in floats]).numpy()
