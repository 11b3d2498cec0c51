"""The interface to models of other libraries: their own embeddings of images and texts, and their vision towers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from importlib.metadata import version
from typing import Any, ClassVar, Literal

import torch
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
from perception_encoder.models.tower import Tower

Mode = Literal["squash", "crop"]
"""How images become square: "crop" is a model's own test transform, "squash" resizes without cropping."""


class Adapter(ABC):
    """A model of another library; its weights are loaded when they are first needed."""

    library: ClassVar[str]
    """The prefix of its models' names, before a colon."""
    distribution: ClassVar[str]
    extra: ClassVar[str] = "eval"
    has_output: ClassVar[bool] = True
    """Whether its models have embeddings of their own."""
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
        """Identifies the weights."""
        return state_hash(self.model.state_dict())

    @property
    def versions(self) -> dict[str, str]:
        """The version of the library."""
        return {self.library: version(self.distribution)}
