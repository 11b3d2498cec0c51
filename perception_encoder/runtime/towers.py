"""The interface between an encoder and a model's two towers, whichever library made the model or computes it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.runtime.runtime import Runtime

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8

    from perception_encoder.models.external import Role


class Towers(ABC):
    """A model's towers: images and texts to vectors, not normalized. Threads may share one."""

    name: str
    runtime: Runtime
    """What executes them, where and how."""
    model: Any
    """The torch module, of this package or of another library; without torch, a float32 copy loaded when asked."""
    weight_hash: str
    """Hash of the weights, whatever the precision."""
    output_width: int
    """Length of the model's own output."""
    depth = 0
    """Number of layers with features; 0 if only the model's own output is available."""
    width = 0
    """Length of a token of any layer."""
    patch_size: int | None = None
    """Side of a patch in pixels, of a model with layers."""
    has_class_token, has_output = False, True
    """Whether pools "cls" and "attn" exist."""
    modes: Sequence[str] = ("squash", "crop")
    """How images may be resized: see `ImageTransform`."""
    reads_images, reads_videos, reads_texts = True, False, False
    """`reads_videos`: whole instead of frame by frame."""
    has_roles = False
    """Whether queries and documents may be encoded in different ways: by prompts, or by parts of the model."""
    prompts: Mapping[str, str] = {}
    """The prompts of the roles that have one, such as "query"."""
    versions: Mapping[str, str] = {}
    """Versions of the libraries that results depend on."""
    tokenizer: Tokenizer | None = None
    """Of a text tower of this package."""
    logit_bias: float | None = None
    """The trained bias of a model whose scores are sigmoids (SigLIP); None for a softmax."""

    @property
    def logit_scale(self) -> float | None:
        """The learned factor of cosine similarities; None without a text tower, or without a factor."""
        return None

    @abstractmethod
    def transform(self, mode: str) -> Any:
        """Return the transform of images, with `pixels`, `mode` and `size`; ConfigError if the model has no such."""

    @abstractmethod
    def images(
        self, pixels: Sequence[Any] | np.ndarray, layer: int, pool: str, role: Role = None
    ) -> Float[np.ndarray, "B *N D"]:
        """Return features of images as `transform` gives them: float32 (B, D), or (B, N, D) with pool "tokens".

        `layer`, `pool`: see `Feature`; the last layer's tokens go through the final norm.
        """

    def video(self, frames: Sequence[Any], times: Sequence[float], role: Role) -> Float[np.ndarray, " D"]:
        """Return the embedding of a video's frames together, of a model that `reads_videos`; `times`: in seconds."""
        raise ConfigError(f"{self.name} reads videos frame by frame")

    def texts(self, texts: Sequence[str], role: Role = None) -> Float[np.ndarray, "B D"]:
        """Return embeddings of texts, float32; ConfigError without a text tower."""
        raise ConfigError(f"{self.name} has no text tower; use a Core model for texts, or search by an image")

    def settings(self, layer: int | None) -> dict[str, str]:
        """Return what features depend on besides the inputs and the transform; makes the image tower ready.

        `layer`: None for the model's own output.
        """
        runtime, dtype = self.runtime.prepare(layer)
        device = self.runtime.device.partition(":")[0]
        return {"weights": self.weight_hash, "dtype": dtype, "runtime": runtime, "device": device, **self.versions}

    def describe(self, size: Any) -> dict[str, Any]:
        """Return what else an index records of them: the image's `size` and its grid of patches."""
        assert self.patch_size is not None
        sides = [size, size] if isinstance(size, int) else [*size]
        return {"size": sides, "grid": [side // self.patch_size for side in sides]}

    def with_layers(self) -> Towers:
        """Return towers with the layers of the same model; ConfigError if they cannot be read."""
        return self

    def quiet(self) -> Self:
        """Return towers that do not warn about long texts, as the warning would log them."""
        if self.tokenizer is None:
            return self
        changed = copy.copy(self)
        changed.tokenizer = replace(self.tokenizer, warns=False)
        return changed


class PackageTowers(Towers):
    """The towers of a model of this package."""

    def __init__(self, name: str, vision: VisionConfig, text: TextConfig | None) -> None:
        self.name, self.vision, self.text = name, vision, text
        self.depth, self.width, self.patch_size = vision.depth, vision.width, vision.patch_size
        self.has_class_token, self.has_output = vision.class_token, vision.pools
        self.tokenizer = Tokenizer(text.context_length) if text else None
        self.reads_texts, self.output_width = text is not None, vision.output_dim or vision.width

    def transform(self, mode: str) -> ImageTransform:
        return ImageTransform(self.vision.image_size, mode)  # type: ignore[arg-type]

    def images(self, pixels: Sequence[Any] | np.ndarray, layer: int, pool: str, role: Role = None) -> np.ndarray:
        return self.embed_pixels(np.asarray(pixels), layer, pool)

    def texts(self, texts: Sequence[str], role: Role = None) -> np.ndarray:
        return super().texts(texts) if self.tokenizer is None else self.embed_ids(trim(self.tokenizer.ids(texts)))

    @abstractmethod
    def embed_pixels(self, pixels: UInt8[np.ndarray, "B 3 H W"], layer: int, pool: str) -> np.ndarray:
        """See `images`."""

    @abstractmethod
    def embed_ids(self, ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B D"]:
        """Return embeddings of texts by their token ids, not normalized: float32."""
