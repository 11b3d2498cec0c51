"""The encoder: images, videos and texts to embeddings, at the model's output or any earlier layer.

Its towers compute, in bfloat16 if that is fast on the machine (timed, not assumed), else in float32; results are
float32. Several threads take whole batches, from the file to the embedding, so that decoding and computing overlap.
With torch on a CPU each computes on a core of its own, in whose cache a batch stays; else one at a time computes.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial, partialmethod
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from perception_encoder.errors import ConfigError, InputError, ModelError
from perception_encoder.formats.listing import Item
from perception_encoder.inference.feature import Feature
from perception_encoder.inference.pipeline import (
    Decoded,
    Embedding,
    EncodingResult,
    K,
    Request,
    as_requests,
    batched,
    compute,
    encode_batch,
    item_request,
    map_in_order,
    ordered_rows,
)
from perception_encoder.inference.sentence_transformer import SentenceTransformerView
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.fetch import FetchLimits
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.media import Kind, Media, open_media
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.progress import Track, untracked
from perception_encoder.runtime.runtime import Runtime
from perception_encoder.runtime.towers import PackageTowers, Towers
from perception_encoder.vectors import Vectors, cosine_similarities, truncate

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from perception_encoder.models.checkpoints.weights import Model
    from perception_encoder.models.external import Role
    from perception_encoder.models.vision_transformer import VisionTransformer

REDUCED = 2
"""Minimum short side of an image that is decoded reduced, in the model's image sizes."""


class Encoder:
    """A model with its transform and tokenizer, of this package or of another library.

    Threads may share one. Attributes: `towers` (what computes, and what the model is), `name`, `source` (name or path
    that it was loaded from), `transform`, `fetch_limits` (what a URL may cost, and whether private addresses are
    allowed), `layer` and `pool` (the defaults of `feature`), `dimensions` (length to which vectors are cut before they
    are made unit length), `decoding`, `trust_remote_code` (whether the model may run code that comes with it).

    `decoding` is "reduced" to decode large JPEGs and frames at a fraction of their size, at least twice the model's,
    and to take key frames of videos in an index; None for that in an index and a search of files, else "exact".

    Examples:
        >>> encoder = pe.load("builtin")
        >>> encoder.similarity(encoder.encode("a red mug"), encoder.encode(["mug.jpg", "dog.jpg"]))  # (1, 2)
    """

    def __init__(self, towers: Towers, source: str | None = None) -> None:
        self.towers, self.name, self.source = towers, towers.name, source or towers.name
        self.transform = towers.transform("squash" if towers.depth else "crop")
        self.fetch_limits = FetchLimits()
        self.layer: int | None = None
        self.pool: str | None = None
        self.dimensions: int | None = None
        self.decoding: str | None = None
        self.trust_remote_code = False

    @classmethod
    def of(cls, model: Model, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Encoder:
        """Return the encoder of a model in torch; `load` chooses a runtime.

        Args:
            model: Copied if it has another device or type.
            device: By default a CUDA GPU if there is one.
            dtype: By default bfloat16 if it is fast.
        """
        from perception_encoder.models.checkpoints.weights import weight_hash
        from perception_encoder.models.precision import choose_device, fast_dtype
        from perception_encoder.runtime.torch_towers import TorchTowers

        device = choose_device(device)
        dtype = dtype or fast_dtype(device)
        fits = all(p.is_meta or (p.dtype, p.device) == (dtype, device) for p in model.parameters())
        placed = model if fits else copy.deepcopy(model).to(device, dtype)
        return cls(TorchTowers(placed, device, dtype, hash_weights=partial(weight_hash, model)))

    def __repr__(self) -> str:
        runtime = self.runtime
        details = f"device={runtime.device!r}, runtime={runtime.name!r}, precision={runtime.precision!r}"
        return f"Encoder({self.name!r}, dimension={self.dimension}, {details})"

    @property
    def runtime(self) -> Runtime:
        """What executes the towers, where and how."""
        return self.towers.runtime

    @property
    def model(self) -> Any:
        """The torch module: the one that computes or, with another runtime, a float32 copy loaded when first asked."""
        return self.towers.model

    @property
    def visual(self) -> VisionTransformer:
        """The vision tower in torch; ConfigError for a model of another library."""
        if not isinstance(self.towers, PackageTowers):
            raise ConfigError(f"{self.name} is not a model of this package; it has embeddings only")
        return cast("VisionTransformer", getattr(self.model, "visual", self.model))

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of a text tower of this package."""
        return self.towers.tokenizer

    @property
    def device(self) -> torch.device:
        """Where embeddings are computed."""
        import torch

        return torch.device(self.runtime.device)

    @property
    def dtype(self) -> torch.dtype:
        """The type of `model`; `runtime.precision` is what embeddings are computed in."""
        import torch

        return cast(torch.dtype, getattr(torch, self.runtime.precision if self.runtime.name == "torch" else "float32"))

    @property
    def dimension(self) -> int:
        """Length of an embedding, D, with the default layer and pooling."""
        return self.width(self.feature())

    @property
    def reads_images(self) -> bool:
        """Whether the model has a vision tower."""
        return self.towers.reads_images

    @property
    def reads_texts(self) -> bool:
        """Whether the model has a text tower."""
        return self.towers.reads_texts

    @property
    def depth(self) -> int:
        """Number of layers with features; 0 if only the model's output is available."""
        return self.towers.depth

    @property
    def has_class_token(self) -> bool:
        """Whether pool "cls" exists."""
        return self.towers.has_class_token

    @property
    def has_output(self) -> bool:
        """Whether pool "attn", the model's own output, exists."""
        return self.towers.has_output

    @property
    def weight_hash(self) -> str:
        """Hash of the weights, whatever the precision; takes a second per gigabyte, and is cached for a file."""
        return self.towers.weight_hash

    @property
    def logit_scale(self) -> float | None:
        """The learned factor of cosine similarities; None for a model without a text tower, or without a factor."""
        return self.towers.logit_scale

    @property
    def logit_bias(self) -> float | None:
        """The trained bias of a model whose scores are sigmoids (SigLIP); None for a softmax."""
        return self.towers.logit_bias

    @property
    def about(self) -> dict[str, str]:
        """Settings of embeddings besides the transform: weight hash, precision, runtime, device, layer."""
        about = self.towers.settings(self.feature().executed)
        return about if self.pool is None else {**about, "layer": str(self.layer), "pool": self.pool}

    @property
    def batch_size(self) -> int:
        """Number of images to compute together."""
        return self.runtime.batch_size

    @property
    def text_batch_size(self) -> int:
        """Number of texts to compute together."""
        return self.runtime.text_batch_size

    def feature(
        self, layer: int | None = None, pool: str | None = None, normalize: bool = True, frames: int = 8
    ) -> Feature:
        """Return the features to take: by default the model's own output.

        Args:
            layer: 0-based, or negative from the end; by default the last.
            pool: "attn", "cls", "mean" or "tokens": see `Feature`; by default "attn" where it exists, else "mean".
            normalize: Make vectors unit length.
            frames: Number of uniform frames of a video.

        Raises:
            ConfigError: The model lacks the layer or the pooling.
        """
        if layer is None and pool is None:
            layer, pool = self.layer, self.pool
        return Feature.of(self.towers, layer, pool, normalize, frames)

    def cut(self, dimensions: int) -> Encoder:
        """Return this encoder with shorter vectors, for models trained for it (Matryoshka); ConfigError for longer."""
        if not 1 <= dimensions <= self.dimension:
            raise ConfigError(f"dimensions is {dimensions}; {self.name} has 1 to {self.dimension}")
        changed = copy.copy(self)
        changed.dimensions = dimensions
        return changed

    def decoding_as(self, decoding: str) -> Encoder:
        """Return this encoder with another `decoding`; ConfigError for an unknown one."""
        if decoding not in ("exact", "reduced"):
            raise ConfigError(f"decoding is {decoding!r}; it must be exact or reduced")
        changed = copy.copy(self)
        changed.decoding = decoding
        return changed

    def variant(self, *, transform: str | None = None, layer: int | None = None, pool: str | None = None) -> Encoder:
        """Return this encoder with another transform, or with another layer or pooling as its default. The weights
        are shared. Raises ConfigError for what the model does not have.

        Args:
            transform: "squash" or "crop"; at a layer of another library's model, images are squashed.
            layer, pool: See `feature`.
        """
        changed = copy.copy(self)
        if layer is not None or pool is not None:
            changed.towers = self.towers.with_layers()
            if changed.towers is not self.towers:
                changed.name, changed.transform = changed.towers.name, changed.towers.transform("squash")
            feature = changed.feature(layer, pool)
            changed.layer, changed.pool = feature.layer, feature.pool
        if transform is not None:
            changed.transform = changed.towers.transform(transform)
        return changed

    def width(self, feature: Feature) -> int:
        """Length of an embedding or token of `feature`, D."""
        whole = self.towers.output_width if feature.pool == "attn" else self.towers.width
        return min(whole, self.dimensions or sys.maxsize)

    def describe(self, feature: Feature) -> dict[str, Any]:
        """Return the settings that `feature` depends on, with its dimension and patch grid."""
        runtime, precision = self.runtime.used(feature.executed)
        description = {
            "model": self.name,
            "weight_hash": self.weight_hash,
            "layer": feature.layer,
            "pool": feature.pool,
            "normalized": feature.normalize,
            "frames": feature.frames,
            "runtime": runtime,
            "precision": precision,
            "transform": self.transform.mode,
            "decoding": self.decoding or "exact",
            "dimension": self.width(feature),
        }
        cut = {"dimensions": self.dimensions} if self.dimensions else {}
        return description | self.towers.describe(self.transform.size) | cut

    def embed_texts(self, texts: Sequence[str], feature: Feature) -> Float[np.ndarray, "B D"]:
        """Return embeddings of texts: float32 (B, D); ConfigError if texts have no such `feature`."""
        if self.reads_texts and feature.pool != "attn":
            raise ConfigError("texts share a space with the model's own output only; omit layer and pool")
        return self._finish(self.towers.texts(texts, feature.role), feature)

    def embed_pixels(self, pixels: Sequence[Any], feature: Feature) -> Float[np.ndarray, "B *N D"]:
        """Return features of images after `transform.pixels`, uint8 (3, H, W): float32 (B, D), or tokens (B, N, D).

        A video's frames are averaged before they are made unit length, so ask for them without `normalize`.
        """
        return self._finish(self.towers.images(pixels, feature.layer, feature.pool, feature.role), feature)

    def embed_video(self, pixels: Sequence[Any], times: Sequence[float], feature: Feature) -> Float[np.ndarray, " D"]:
        """Return the embedding of a video's frames together, of a model that `reads_videos`; `times`: in seconds."""
        return self._finish(self.towers.video(pixels, times, feature.role), feature)

    def _finish(self, features: np.ndarray, feature: Feature) -> np.ndarray:
        if not np.isfinite(features).all():
            precision = self.runtime.used(feature.executed)[1]
            raise ModelError(f"{self.name} gives NaN or infinity in {precision}: its weights are bad, or need float32")
        return truncate(features, self.dimensions, feature.normalize)

    def as_sentence_transformer(self) -> SentenceTransformerView:
        """Return this encoder with the methods and arguments that sentence-transformers' functions and mteb call."""
        return SentenceTransformerView(self)

    def similarity(self, a: Vectors, b: Vectors) -> Float[Tensor, "n m"]:
        """Return cosine similarities of each row of `a` (n, D) to each of `b` (m, D), or of (D,): float32 (n, m)."""
        return cosine_similarities(a, b)

    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        role: Role = None,
        decoding: str | None = None,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        progress: Track = untracked,
    ) -> Float[np.ndarray, "*n D"]:
        """Encode images, videos and texts in any mixture.

        Args:
            inputs: A list, an array of strings, a pandas Series, or one input. Paths, strings of existing files, URLs,
                bytes, PIL images and uint8 arrays (H, W), (H, W, 3) and (F, H, W, 3) are media. Any other string is
                a text, except that one with a media suffix and no such file is an error; `encode_texts` takes every
                string as a text, and {"text": …}, {"image": …} or {"video": …} says what it is.
            normalize: Make vectors unit length.
            layer, pool: See `feature`.
            frames: Number of uniform frames of a video.
            role: "query" or "document": chooses the prompt of a model that has them.
            decoding: "exact" or "reduced"; by default the encoder's.
            batch_size: Images or texts computed at once; by default what fits the cache.
            skipped: Collects bad inputs as {index: error}: they are logged and get no row. By default the first raises.

        Returns:
            float32 (n, D) in input order, or (D,) for one input; pool "tokens" gives (n, N, D), of videos (n, F, N, D).

        Raises:
            InputError: An input cannot be read.
            ConfigError: The model lacks the layer, pooling or text tower, or an argument is unsupported.
            ModelError: A value is NaN or infinite.

        Examples:
            >>> encoder.encode(["a red mug", Path("mug.jpg")])  # (2, D)
        """
        if role not in (None, "query", "document"):
            raise ConfigError(f"role is {role!r}; it must be 'query' or 'document'")
        chosen = self if decoding is None else self.decoding_as(decoding)
        feature = replace(self.feature(layer, pool, normalize, frames), role=role)
        return chosen._rows(inputs, None, feature, batch_size, skipped, progress)

    encode_query = partialmethod(encode, role="query")
    """`encode` with the model's prompt for queries; this package's models have no prompts."""
    encode_document = partialmethod(encode, role="document")
    """`encode` with the model's prompt for documents; this package's models have no prompts."""

    def encode_images(
        self,
        images: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """Encode images as `encode` does; an array (n, H, W, 3) is n images, an animation its first frame."""
        if isinstance(images, np.ndarray) and images.ndim == 4:
            images = list(images)
        return self._rows(images, "image", self.feature(layer, pool, normalize), batch_size, skipped)

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
    ) -> Float[np.ndarray, "*n D"]:
        """Encode videos as `encode` does; animated images count as videos here."""
        return self._rows(videos, "video", self.feature(layer, pool, normalize, frames), batch_size, skipped)

    def encode_texts(
        self, texts: str | Iterable[str], normalize: bool = True, *, batch_size: int | None = None
    ) -> Float[np.ndarray, "*n D"]:
        """Encode strings as texts, whatever they look like, as `encode` does.

        Long ones are cut, by this package's models with a warning. A model with prompts takes them as queries, to
        compare with images, which are documents.
        """
        feature = replace(self.feature(normalize=normalize), role="query")
        return self._rows(texts, "text", feature, batch_size, None)

    def _rows(
        self,
        inputs: object,
        kind: Kind | None,
        feature: Feature,
        batch_size: int | None,
        skipped: dict[int, InputError] | None,
        progress: Track = untracked,
    ) -> np.ndarray:
        """Return the vectors of inputs as one array, in order."""
        requests, single = as_requests(inputs, kind)
        results = progress(chain.from_iterable(self.stream(requests, feature, batch_size)), "encoding", len(requests))
        if single:
            (result,) = results
            if not isinstance(result, Embedding):
                raise result.error
            return result.vector
        rows = ordered_rows(results, skipped)
        return np.stack(rows) if rows else np.empty((0, self.width(feature)), np.float32)

    def stream_items(self, items: Iterable[Item], feature: Feature) -> Iterator[list[EncodingResult[Item]]]:
        """Encode the items of `list_items`: see `stream`."""
        requests = map(item_request, items)
        return self.stream([*requests] if isinstance(items, Sequence) else requests, feature)

    def stream(
        self,
        requests: Iterable[Request[K]],
        feature: Feature,
        batch_size: int | None = None,
        workers: int | None = None,
    ) -> Iterator[list[EncodingResult[K]]]:
        """Encode requests: yield the results of each batch as a list, in order, with failures in their place.

        Args:
            batch_size: Images at a time; by default what fits the cache (`self.batch_size`), or fewer if `requests` is
                a list too short to keep all workers busy that compute on a core each.
            workers: Threads that take a batch each; by default the runtime's; 1 is the caller's own, with all cores.
                The batches of a stream do not depend on this nor on what came before them.
        """
        images, texts = batch_size or self.batch_size, batch_size or self.text_batch_size
        if workers is None:
            workers = self.runtime.workers
        if isinstance(requests, Sequence) and batch_size is None and self.runtime.per_core:
            images = max(1, min(images, math.ceil(len(requests) / workers)))
        batches: Iterable[list[Request[K]]] = batched(requests, images, texts, feature.frames)
        if isinstance(requests, Sequence):
            batches = list(batches)
            workers = max(1, min(workers, len(batches)))
        encode = partial(
            encode_batch,
            limits=self.fetch_limits,
            decode=partial(self.decode, feature=feature),
            compute=partial(self.encode_decoded, feature=feature, images=images, texts=texts),
        )
        return map_in_order(encode, batches, workers, self.runtime)

    def reduced_side(self, feature: Feature) -> int | None:
        """Return the short side down to which images are reduced while they are decoded; None to decode them whole."""
        size = self.transform.size
        if size is None or feature.pool == "tokens" or self.decoding != "reduced":
            return None
        return REDUCED * (size if isinstance(size, int) else max(size))

    def decode(self, media: Media, feature: Feature, served: bool = False) -> Decoded:
        """Open an input and resize it; large images wait for space in `DECODING`. `served`, raises: as `open_media`."""
        with DECODING.admission() as admit:
            opened = open_media(media, feature.frames, admit, reduce_to=self.reduced_side(feature), served=served)
            if isinstance(opened, str):
                return Decoded(text=opened)
            images, times = (opened.images, opened.times) if isinstance(opened, VideoFrames) else ([opened], [])
            return Decoded(pixels=tuple(map(self.transform.pixels, images)), times=tuple(times))

    def encode_decoded(
        self, inputs: Iterable[Decoded], feature: Feature, images: int | None = None, texts: int | None = None
    ) -> list[np.ndarray]:
        """Return the vectors of inputs, in order, computed in the caller's thread.

        `images`, `texts`: maximum numbers of frames and texts to compute together, which bound the memory.
        """
        return compute(
            inputs,
            feature,
            images or self.batch_size,
            texts or self.text_batch_size,
            partial(self.embed_pixels, feature=replace(feature, normalize=False)),  # frames are averaged first
            partial(self.embed_texts, feature=feature),
            partial(self.embed_video, feature=feature) if self.towers.reads_videos else None,
        )
