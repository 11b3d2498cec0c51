"""The encoder: images, videos and texts to embeddings, at the model's output or any earlier layer.

A runtime executes the towers, in bfloat16 if that is fast on the machine (timed, not assumed), else in float32; results
are float32.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, partialmethod
from typing import TYPE_CHECKING, Any, Unpack, cast, overload

import numpy as np

from perception_encoder.errors import ConfigError, InputError, ModelError
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.library_interfaces import (
    EncodeOptions,
    SentenceInterface,
    batch_inputs,
    check_unsupported,
)
from perception_encoder.inference.pipeline import (
    Feature,
    as_list,
    encode_inputs,
    resolve_layers,
)
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.preprocess.image import ImageTransform
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.progress import progress_bar
from perception_encoder.runtime.runtime import Runtime, TowerRuntime
from perception_encoder.vectors import truncate

if TYPE_CHECKING:
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from perception_encoder.models.checkpoints.weights import Model
    from perception_encoder.models.external import Role
    from perception_encoder.models.vision_transformer import VisionTransformer

POOLS = ("attn", "cls", "mean", "tokens")


class Encoder(SentenceInterface):
    """A model with its transform and tokenizer, from this package or (as a subclass) from another library.

    Threads may share one. Attributes: `name`, `source` (name or path that it was loaded from), `runtime` (what executes
    the towers), `transform`, `tokenizer` (None without a text tower of this package), `fetch_limits` (what a URL may
    cost, and whether private addresses are allowed).

    Examples:
        >>> encoder = pe.load("builtin")
        >>> encoder.similarity(encoder.encode("a red mug"), encoder.encode(["mug.jpg", "dog.jpg"]))  # (1, 2)
    """

    layer: int | None = None
    pool: str | None = None
    """The defaults of `feature`; `variant` sets them."""
    dimensions: int | None = None
    """Length to which vectors are cut before they are made unit length; `cut` sets it."""
    decoding: str | None = None
    """"reduced": decode large JPEGs and frames at a fraction of their size, at least twice the model's, and take key
    frames of videos in an index. None: so in an index and a search of files, else exact; `decoding_as` sets it."""
    transforms: tuple[str, ...] = ("squash", "crop")
    reads_images, reads_videos = True, False  # with `reads_videos`, videos whole instead of frame by frame
    has_roles = False
    """Whether queries and documents may be encoded in different ways: by prompts, or by parts of the model."""
    trust_remote_code = False
    """Whether the model may run code that comes with it; `load` sets it."""
    logit_bias: float | None = None
    """The trained bias of a model whose scores are sigmoids (SigLIP); None for a softmax."""

    def __init__(
        self, model: Model, device: str | torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Execute a model with torch; `load` chooses a runtime.

        Args:
            model: Copied if it has another device or type.
            device: By default a CUDA GPU if there is one.
            dtype: By default bfloat16 if it is fast.
        """
        from perception_encoder.models.checkpoints.weights import weight_hash
        from perception_encoder.runtime.torch_runtime import TorchRuntime

        device = choose_device(device)
        dtype = dtype or fast_dtype(device)
        fits = all(p.is_meta or (p.dtype, p.device) == (dtype, device) for p in model.parameters())
        placed = model if fits else copy.deepcopy(model).to(device, dtype)
        self._set_up(TorchRuntime(placed, device, dtype), model.name, model.name, lambda: weight_hash(model))

    @classmethod
    def of(
        cls,
        runtime: TowerRuntime,
        name: str,
        source: str,
        hash_weights: Callable[[], str],
        load: Callable[[], Model] | None = None,
    ) -> Encoder:
        """Return the encoder of a model that a runtime executes; `load` returns it in torch, if that is another's."""
        encoder = cls.__new__(cls)
        encoder._set_up(runtime, name, source, hash_weights, load)
        return encoder

    def _set_up(
        self,
        runtime: TowerRuntime,
        name: str,
        source: str,
        hash_weights: Callable[[], str],
        load: Callable[[], Model] | None = None,
    ) -> None:
        self.runtime: Runtime = runtime
        self.name, self.source, self.vision = name, source, runtime.vision
        self.transform: Any = ImageTransform(runtime.vision.image_size)
        self.tokenizer: Tokenizer | None = Tokenizer(runtime.text.context_length) if runtime.text else None
        self.fetch_limits = FetchLimits()
        self._hash_weights, self._load = hash_weights, load

    def __repr__(self) -> str:
        runtime = self.runtime
        details = f"device={runtime.device!r}, runtime={runtime.name!r}, precision={runtime.precision!r}"
        return f"{type(self).__name__}({self.name!r}, dimension={self.dimension}, {details})"

    @property
    def _towers(self) -> TowerRuntime:
        return cast(TowerRuntime, self.runtime)

    @cached_property
    def model(self) -> Any:
        """The torch module: the one that computes or, with another runtime, a float32 copy loaded when first asked."""
        runtime: Any = self.runtime
        return runtime.model if runtime.name == "torch" else cast(Any, self._load)()

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
    def visual(self) -> VisionTransformer:
        """The vision tower in torch; ConfigError for a model of another library."""
        return cast("VisionTransformer", getattr(self.model, "visual", self.model))

    @property
    def dimension(self) -> int:
        """Length of an embedding, D, with the default layer and pooling."""
        return self.width(self.feature())

    @property
    def reads_texts(self) -> bool:
        """Whether the model has a text tower."""
        return self.tokenizer is not None

    @property
    def depth(self) -> int:
        """Number of layers with features; 0 if only the model's output is available."""
        return self.vision.depth

    @property
    def has_class_token(self) -> bool:
        """Whether pool "cls" exists."""
        return self.vision.class_token

    @property
    def has_output(self) -> bool:
        """Whether pool "attn", the model's own output, exists."""
        return self.vision.pools

    @cached_property
    def weight_hash(self) -> str:
        """Hash of the weights, whatever the precision; takes a second per gigabyte, and is cached for a file."""
        return self._hash_weights()

    @cached_property
    def logit_scale(self) -> float | None:
        """The learned factor of cosine similarities; None for a model without a text tower, or without a factor."""
        return None if self.tokenizer is None else self._towers.logit_scale

    @property
    def about(self) -> dict[str, str]:
        """Settings of embeddings besides the transform: weight hash, precision, runtime, device, layer."""
        device = self.runtime.device.partition(":")[0]
        runtime, dtype = self.runtime.prepare(self.feature().executed)
        about = {"weights": self.weight_hash, "dtype": dtype, "runtime": runtime, "device": device}
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
        if frames < 1:
            raise ConfigError(f"frames is {frames}; a video needs at least 1")
        depth = self.depth
        if not depth:
            if layer is not None or pool not in (None, "attn"):
                raise ConfigError(f"{self.name} has embeddings only; omit layer and pool")
            return Feature(layer=-1, pool="attn", normalize=normalize, frames=frames)
        index = resolve_layers([-1 if layer is None else layer], depth, self.name)[0]
        pooled_here = self.has_output and index == depth - 1
        pool = pool or ("attn" if pooled_here else "mean")
        if pool not in POOLS:
            raise ConfigError(f"pool is {pool!r}; it must be one of {', '.join(POOLS)}")
        if pool == "attn" and not pooled_here:
            where = f"has it after layer {depth - 1} only" if self.has_output else "has none"
            raise ConfigError(f"no pool 'attn' after layer {index}: {self.name} {where}; use mean, cls or tokens")
        if pool == "cls" and not self.has_class_token:
            raise ConfigError(f"{self.name} has no class token; use pool mean or tokens")
        return Feature(layer=index, pool=pool, normalize=normalize, frames=frames)

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
        """Return this encoder with another transform, or with another layer or pooling as its default.

        `transform`: "squash" or "crop". `layer`, `pool`: see `feature`. The weights are shared. Raises ConfigError for
        what the model does not have.
        """
        changed = copy.copy(self)
        if transform is not None:
            changed.transform = replace(self.transform, mode=transform)
        if layer is not None or pool is not None:
            feature = self.feature(layer, pool)
            changed.layer, changed.pool = feature.layer, feature.pool
        return changed

    def width(self, feature: Feature) -> int:
        """Length of an embedding or token of `feature`, D."""
        return min(self._full_width(feature), self.dimensions or sys.maxsize)

    def _full_width(self, feature: Feature) -> int:
        return (self.vision.output_dim if feature.pool == "attn" else None) or self.vision.width

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
        return description | self._describe_grid() | ({"dimensions": self.dimensions} if self.dimensions else {})

    def _describe_grid(self) -> dict[str, Any]:
        size, patch = self.transform.size, self.vision.patch_size
        sides = [size, size] if isinstance(size, int) else [*size]
        return {"size": sides, "grid": [side // patch for side in sides]}

    def embed_texts(self, texts: Sequence[str], feature: Feature) -> Float[np.ndarray, "B D"]:
        """Return embeddings of texts: float32 (B, D); ConfigError if texts have no such `feature`."""
        if not self.reads_texts:
            raise ConfigError(f"{self.name} has no text tower; use a Core model for texts, or search by an image")
        if feature.pool != "attn":
            raise ConfigError("texts share a space with the model's own output only; omit layer and pool")
        return self._finish(self._texts(texts, feature.role), feature)

    def _texts(self, texts: Sequence[str], role: Role) -> np.ndarray:
        assert self.tokenizer is not None
        return self._towers.texts(trim(self.tokenizer.ids(texts)))

    def embed_pixels(self, pixels: Sequence[Any], feature: Feature) -> Float[np.ndarray, "B *N D"]:
        """Return features of images after `transform.pixels`, uint8 (3, H, W): float32 (B, D), or tokens (B, N, D).

        A video's frames are averaged before they are made unit length, so ask for them without `normalize`.
        """
        return self._finish(self._images(pixels, feature), feature)

    def _images(self, pixels: Sequence[Any], feature: Feature) -> np.ndarray:
        return self._towers.images(np.asarray(pixels), feature.layer, feature.pool)

    def embed_video(self, pixels: Sequence[Any], times: Sequence[float], feature: Feature) -> Float[np.ndarray, " D"]:
        """Return the embedding of a video's frames together, of a model that `reads_videos`; `times`: in seconds."""
        raise NotImplementedError

    def _finish(self, features: np.ndarray, feature: Feature) -> np.ndarray:
        if not np.isfinite(features).all():
            precision = self.runtime.used(feature.executed)[1]
            raise ModelError(f"{self.name} gives NaN or infinity in {precision}: its weights are bad, or need float32")
        return truncate(features, self.dimensions, feature.normalize)

    @overload
    def encode(
        self, inputs: object, normalize: bool = True, **options: Unpack[EncodeOptions]
    ) -> Float[np.ndarray, "*n D"]: ...

    @overload
    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        **options: Unpack[EncodeOptions],
    ) -> np.ndarray | Tensor | list[Tensor]: ...

    def encode(
        self,
        inputs: object,
        normalize: bool = True,
        *,
        layer: int | None = None,
        pool: str | None = None,
        frames: int = 8,
        decoding: str | None = None,
        batch_size: int | None = None,
        skipped: dict[int, InputError] | None = None,
        show_progress_bar: bool | None = None,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool | None = None,
        truncate_dim: int | None = None,
        precision: str | None = None,
        prompt: str | None = None,
        prompt_name: str | None = None,
        device: str | torch.device | None = None,
        task_metadata: object = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: object = None,
    ) -> np.ndarray | Tensor | list[Tensor]:
        """Encode images, videos and texts in any mixture.

        Args:
            inputs: A list, an array of strings, a pandas Series, or one input. Paths, strings of existing files, URLs,
                bytes, PIL images and uint8 arrays (H, W), (H, W, 3) and (F, H, W, 3) are media. Any other string is
                a text, except that one with a media suffix and no such file is an error; `encode_texts` takes every
                string as a text, and {"text": …}, {"image": …} or {"video": …} says what it is.
            normalize: Make vectors unit length.
            layer, pool: See `feature`.
            frames: Number of uniform frames of a video.
            decoding: "exact" or "reduced"; by default the encoder's.
            batch_size: Images or texts computed at once; by default what fits the cache.
            skipped: Collects bad inputs as {index: error}: they are logged and get no row. By default the first raises.
            show_progress_bar: Show a bar on a terminal.
            convert_to_numpy: If this and `convert_to_tensor` are False, the result is a list of tensors.
            convert_to_tensor: Return a tensor on the encoder's device.
            normalize_embeddings: Overrides `normalize`, under sentence-transformers' name.
            truncate_dim: Length to cut vectors to, before they are normalized.
            precision: Of sentence-transformers; only "float32".
            prompt, prompt_name: Of sentence-transformers; unsupported.
            device: Of sentence-transformers; only the encoder's own.
            task_metadata: Of mteb; with it, `inputs` is mteb's loader of batches.
            hf_split, hf_subset: Of mteb; changes nothing.
            prompt_type: "query" or "document": chooses the prompt of a model that has them.

        Returns:
            float32 (n, D) in input order, or (D,) for one input; pool "tokens" gives (n, N, D), of videos (n, F, N, D).

        Raises:
            InputError: An input cannot be read.
            ConfigError: The model lacks the layer, pooling or text tower, or an argument is unsupported.
            ModelError: A value is NaN or infinite.

        Examples:
            >>> encoder.encode(["a red mug", Path("mug.jpg")])  # (2, D)
        """
        role = cast("Role", getattr(prompt_type, "value", prompt_type))
        check_unsupported(precision, prompt or prompt_name, truncate_dim, role)
        if device is not None and choose_device(device) != self.device:
            raise ConfigError(f"this encoder computes on {self.device}; load one with device={str(device)!r} instead")
        chosen = self if decoding is None else self.decoding_as(decoding)
        normalize = normalize if normalize_embeddings is None else normalize_embeddings
        feature = replace(self.feature(layer, pool, normalize, frames), role=role)
        if task_metadata is None:
            values, single = as_list(inputs)
            parts: Iterable[object] = [values[0] if single else values]
            count = len(values)
        elif skipped is None:
            parts, count, single = batch_inputs(cast(Any, inputs)), len(cast(Any, inputs).dataset), False
        else:
            raise ConfigError("skipped is given, but mteb needs a row for each input; omit it")
        bar = progress_bar("encoding", count) if show_progress_bar else nullcontext(lambda items: None)
        with bar as advance:
            arrays = [encode_inputs(chosen, part, None, feature, batch_size, skipped, advance) for part in parts]
        rows = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
        if truncate_dim is not None:
            rows = truncate(rows, truncate_dim, normalize)
        if convert_to_numpy and not convert_to_tensor:
            return rows
        import torch

        tensor = torch.from_numpy(rows).to(self.device)
        return tensor if single or convert_to_tensor else list(tensor)

    encode_query = partialmethod(encode, prompt_type="query")
    """`encode` with the model's prompt for queries; this package's models have no prompts."""
    encode_document = partialmethod(encode, prompt_type="document")
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
        return encode_inputs(self, images, "image", self.feature(layer, pool, normalize), batch_size, skipped)

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
        return encode_inputs(self, videos, "video", self.feature(layer, pool, normalize, frames), batch_size, skipped)

    def encode_texts(
        self,
        texts: str | Iterable[str],
        normalize: bool = True,
        *,
        batch_size: int | None = None,
    ) -> Float[np.ndarray, "*n D"]:
        """Encode strings as texts, whatever they look like, as `encode` does.

        Long ones are cut, by this package's models with a warning. A model with prompts takes them as queries, to
        compare with images, which are documents.
        """
        return encode_inputs(
            self, texts, "text", replace(self.feature(normalize=normalize), role="query"), batch_size, None
        )
