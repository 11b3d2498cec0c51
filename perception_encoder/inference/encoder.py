"""Things to vectors: load a model, and encode pictures, videos and texts with it.

The vectors are those of the model's last layer, or of any earlier one, pooled in one of four ways. Computation runs in
bfloat16 where the machine has fast bfloat16 (timed, not assumed) and in float32 elsewhere; results are float32.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from perception_encoder.errors import ConfigError, InputError, ModelError
from perception_encoder.inference.fetch import FetchLimits, is_url
from perception_encoder.inference.media import Kind, Media, resolve
from perception_encoder.inference.pipeline import Embedding, Request, encode_requests, guess_kind
from perception_encoder.inference.sentence_interface import SentenceInterface, as_list
from perception_encoder.models.checkpoints.weight_hashes import CachedHash
from perception_encoder.models.checkpoints.weights import Model, TowerChoice, find_weights, load_model, weight_hash
from perception_encoder.models.clip import CLIP
from perception_encoder.models.precision import fast_dtype
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.preprocess.image import ImageTransform, image_transform, to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, tokenizer, trim

logger = logging.getLogger(__name__)

POOLS = ("attn", "cls", "mean", "tokens")
_ACTIVATIONS = 640_000  # tokens x width of a batch that fits a CPU core's cache (measured: 2 MiB of L2, bfloat16)


@dataclass(frozen=True, kw_only=True)
class Feature:
    """Which vectors to take from a model; `Encoder.feature` fills in its defaults and checks them."""

    layer: int
    """0-based block of the vision tower whose tokens are taken; the last one's go through `ln_post`."""
    pool: str
    """"attn" (the model's own pooling and projection, after the last layer), "cls" (class token), "mean" or "tokens"
    (patch tokens, row by row)."""
    normalize: bool = True
    """Vectors of unit length; of a video: the mean of its frames' vectors, each of its own length, made unit length."""
    frames: int = 8
    """Uniform frames of a video."""


class Encoder(SentenceInterface):
    """A model with all it takes to encode things; threads may share one. `encode` is that of `SentenceInterface`.

    Attributes: `model` (the torch module, in `dtype`), `name` (canonical), `device`, `dtype`, `transform`, `tokenizer`
    (None without a text tower), `fetch_limits` (what a URL may cost, and whether private addresses are allowed).
    """

    def __init__(
        self, model: Model, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """`device`: by default a CUDA GPU where there is one. `dtype`: by default bfloat16 where it is fast.

        The model is copied where it has another device or type.
        """
        self.device = find_device(device)
        self.dtype = dtype or fast_dtype(self.device)
        self.name = model.name
        fits = all(p.is_meta or (p.dtype, p.device) == (self.dtype, self.device) for p in model.parameters())
        self.model = model if fits else copy.deepcopy(model).to(self.device, self.dtype)
        self.transform: ImageTransform = image_transform(model)
        self.tokenizer: Tokenizer | None = tokenizer(model) if isinstance(model, CLIP) else None
        self.fetch_limits = FetchLimits()
        self._find_hash: Callable[[], str] = partial(weight_hash, model)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Encoder({self.name!r}, dimension={self.dimension}, device={str(self.device)!r}, dtype={dtype!r})"

    @property
    def visual(self) -> VisionTransformer:
        """The vision tower."""
        return self.model.visual if isinstance(self.model, CLIP) else self.model

    @property
    def dimension(self) -> int:
        """Length of a vector, D, with the default layer and pooling."""
        config = self.visual.config
        return config.output_dim or config.width

    @cached_property
    def weight_hash(self) -> str:
        """Identifies the weights, whatever `dtype` they are used in; takes a second a gigabyte.

        That of a file is cached; the first time, it is read once more if `dtype` is not float32.
        """
        return self._find_hash()

    @property
    def batch_size(self) -> int:
        """Pictures that are best computed together: on a CPU, those whose activations fit a core's cache."""
        config = self.visual.config
        return max(2, _ACTIVATIONS // (config.grid**2 * config.width)) if self.device.type == "cpu" else 64

    @property
    def text_batch_size(self) -> int:
        """Texts that are best computed together."""
        return 64 if self.device.type == "cpu" else 512

    def feature(
        self, layer: int | None = None, pool: str | None = None, normalize: bool = True, frames: int = 8
    ) -> Feature:
        """What to take: by default the model's own output.

        `layer`: 0-based or, from the end, negative; the last by default. `pool`: see `Feature`; by default "attn" after
        the last layer of a model that has it, else "mean". Raises ConfigError for what the model does not have.
        """
        config = self.visual.config
        index = self.visual.layer_indices([-1 if layer is None else layer])[0]
        pooled_here = config.pools and index == config.depth - 1
        pool = pool or ("attn" if pooled_here else "mean")
        if pool not in POOLS:
            raise ConfigError(f"pool is {pool!r}; it must be one of {', '.join(POOLS)}")
        if pool == "attn" and not pooled_here:
            where = f"has it after layer {config.depth - 1} only" if config.pools else "has none"
            raise ConfigError(f"no pool 'attn' after layer {index}: {self.name} {where}; take mean, cls or tokens")
        if pool == "cls" and not config.class_token:
            raise ConfigError(f"{self.name} has no class token; take another pool than 'cls'")
        if frames < 1:
            raise ConfigError(f"frames is {frames}; a video needs at least 1")
        return Feature(layer=index, pool=pool, normalize=normalize, frames=frames)

    def describe(self, feature: Feature) -> dict[str, object]:
        """What the vectors of `feature` depend on, apart from the inputs; also their `dimension` and the patch grid."""
        config = self.visual.config
        height, width = (self.transform.size,) * 2 if isinstance(self.transform.size, int) else self.transform.size
        return {
            "model": self.name,
            "weight_hash": self.weight_hash,
            "layer": feature.layer,
            "pool": feature.pool,
            "normalised": feature.normalize,
            "frames": feature.frames,
            "dtype": str(self.dtype).removeprefix("torch."),
            "transform": self.transform.mode,
            "size": [height, width],
            "grid": [height // config.patch_size, width // config.patch_size],
            "dimension": self.dimension if feature.pool == "attn" else config.width,
        }

    def _encode_mixed(
        self,
        inputs: object,
        normalize: bool,
        layer: int | None,
        pool: str | None,
        frames: int,
        batch_size: int | None,
        skipped: dict[int, InputError] | None,
        progress: Callable[[int], object],
        device: str | torch.device | None,
    ) -> np.ndarray:
        if device is not None and find_device(device) != self.device:
            raise ConfigError(f"this encoder computes on {self.device}; load one with device={str(device)!r} instead")
        return self._encode(inputs, None, self.feature(layer, pool, normalize, frames), batch_size, skipped, progress)

    def encode_images(
        self,
        images: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """`encode` for what must be pictures; an array (n, H, W, 3) is n of them, and of animations the first frame."""
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        return self._encode(images, "image", self.feature(layer, pool, normalize), batch_size, skipped, progress)

    def encode_videos(
        self,
        videos: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """`encode` for what must be videos; animated pictures are videos here."""
        feature = self.feature(layer, pool, normalize, frames)
        return self._encode(videos, "video", feature, batch_size, skipped, progress)

    def encode_texts(
        self,
        texts: str | Iterable[str],
        normalize: bool = True,
        *,
        batch_size: int | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """`encode` for what must be texts, whatever they look like; a text over the context is cut with a warning."""
        return self._encode(texts, "text", self.feature(normalize=normalize), batch_size, None, progress)

    def _encode(
        self,
        inputs: object,
        kind: Kind | None,
        feature: Feature,
        batch_size: int | None,
        skipped: dict[int, InputError] | None,
        progress: Callable[[int], object] | None,
    ) -> np.ndarray:
        values, single = as_list(inputs)
        requests = [self._request(index, value, kind) for index, value in enumerate(values)]
        # texts of like lengths side by side need little padding
        requests.sort(key=lambda request: len(str(values[request.key])) if request.likely == "text" else 0)
        rows: dict[int, np.ndarray] = {}
        for batch in encode_requests(self, requests, feature, batch_size):
            for result in batch:
                if isinstance(result, Embedding):
                    rows[result.key] = result.vector
                elif skipped is None or single:
                    raise result.error
                else:
                    logger.warning("skipped %s", result.error)
                    skipped[result.key] = result.error
            if progress is not None:
                progress(len(batch))
        return rows[0] if single else self._stack([rows[index] for index in sorted(rows)], feature)

    def _request(self, index: int, value: object, kind: Kind | None) -> Request[int]:
        if kind == "text":
            return Request(index, partial(_as_text, value, f"input {index}"), "text")
        named = isinstance(value, (str, Path)) or bool(getattr(value, "filename", None))
        find = partial(resolve, value, None if named else f"input {index}", kind=kind, limits=self.fetch_limits)
        if isinstance(value, str) and kind is None:
            find = partial(_resolve_or_hint, find)
        if isinstance(value, str) and not is_url(value):
            with suppress(InputError):  # raised again in its turn
                media = find()
                return Request(index, lambda: media, media.kind)
        return Request(index, find, kind or guess_kind(str(value) if isinstance(value, (str, Path)) else ""))

    def _stack(self, rows: list[np.ndarray], feature: Feature) -> np.ndarray:
        if not rows:
            config = self.visual.config
            return np.empty((0, self.dimension if feature.pool == "attn" else config.width), np.float32)
        if len({row.shape for row in rows}) > 1:
            raise ConfigError("pool 'tokens' takes pictures or videos, not both at once")
        return np.stack(rows)

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], feature: Feature) -> Float[Tensor, "B D"]:
        """Vectors of texts: float32 (B, D) on the CPU; ConfigError where `feature` is none that texts have."""
        if not isinstance(self.model, CLIP) or self.tokenizer is None:
            raise ConfigError(f"{self.name} has no text tower; take a Core model for texts")
        if feature.pool != "attn":
            raise ConfigError("texts share a space with the model's own output only; leave out layer and pool")
        tokens = trim(self.tokenizer(texts)).to(self.device)  # (B, T)
        return self._finished(self.model.encode_text(tokens), feature)

    @torch.inference_mode()
    def embed_pixels(self, pixels: UInt8[Tensor, "B 3 H W"], feature: Feature) -> Float[Tensor, "B *N D"]:
        """Vectors of pictures that went through `transform.pixels`: float32 (B, D), or tokens (B, N, D), on the CPU.

        Those of a video's frames are averaged before they are made unit length, so ask for them without `normalize`.
        """
        visual = self.visual
        if visual.conv1.weight.is_meta:
            raise ConfigError(f"{self.name} was loaded with towers='text'; load it whole for images and videos")
        batch = to_float(pixels.to(self.device)).to(self.dtype)
        if feature.pool == "attn":
            vectors = visual(batch)
        else:
            found = visual.forward_intermediates(
                batch,
                [feature.layer],
                return_prefix_tokens=True,
                norm=feature.layer == visual.config.depth - 1,
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
            patches, prefix = found[0]  # (B, N, D), (B, 0 or 1, D)
            if feature.pool == "mean":
                vectors = patches.float().mean(dim=1)
            else:
                vectors = patches if feature.pool == "tokens" else prefix[:, 0]
        return self._finished(vectors, feature)

    def _finished(self, vectors: Tensor, feature: Feature) -> Tensor:
        vectors = vectors.float().cpu()
        if not vectors.isfinite().all():
            raise ModelError(f"{self.name} gives NaN or infinity in {self.dtype}: its weights are bad, or need float32")
        return F.normalize(vectors, dim=-1) if feature.normalize else vectors


def _resolve_or_hint(find: Callable[[], Media]) -> Media:
    """A string that is taken for a file's name and is not a usable one: say how to encode it as a text."""
    try:
        return find()
    except InputError as error:
        raise type(error)(error.source, f"{error.reason}; if it is a text, encode_texts takes it as one") from error


def _as_text(value: object, name: str) -> Media:
    if not isinstance(value, str):
        raise InputError(name, f"is of type {type(value).__name__}; give a text")
    return resolve(value, kind="text")


def find_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or a CUDA GPU where there is one, else the CPU; ConfigError where it cannot be used."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"device {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    towers: TowerChoice = "all",
) -> Encoder:
    """Load a model with its weights as an `Encoder`.

    `name`: "builtin", a checkpoint's path, or any model name or alias, fetched from the hub once. `device`, `dtype`:
    see `Encoder`. `towers="text"` leaves the vision tower of a two-tower model unread: it then encodes texts alone.
    Raises UnknownModelError, CheckpointError, WeightsUnavailableError.
    """
    device = find_device(device)
    dtype = dtype or fast_dtype(device)
    path, _ = find_weights(name)
    cached = CachedHash(path) if path.is_file() else None  # as the file is before it is read
    model = load_model(name, towers)
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device, dtype)
    encoder = Encoder(model, device, dtype)
    if cached is not None:
        exact = dtype == torch.float32 and not any(p.is_meta for p in model.parameters())
        compute = encoder._find_hash if exact else lambda: weight_hash(load_model(name))
        encoder._find_hash = lambda: cached.get(compute)
    return encoder
