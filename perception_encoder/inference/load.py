"""Load any model by its name: this package's, and those of timm, open_clip, (sentence-)transformers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.find import TowerChoice, find_weights
from perception_encoder.models.defaults import chosen_precision, default_model
from perception_encoder.models.registry import canonical_name, library_of, portable_name, shown_name
from perception_encoder.runtime import cache
from perception_encoder.runtime.choice import choose
from perception_encoder.runtime.openvino_runtime import OpenVinoRuntime
from perception_encoder.runtime.runtime import (
    AUTO,
    PRECISIONS,
    ExecutedModel,
    ModelInfo,
    Precision,
    RuntimeName,
    check_choice,
)

if TYPE_CHECKING:
    import torch

    from perception_encoder.inference.layer_features import LayerFeatures
    from perception_encoder.models.checkpoints.weights import Model
    from perception_encoder.models.external import Adapter
    from perception_encoder.models.tower import Tower

PrecisionChoice = Literal["auto", "float32", "bfloat16", "int8"]
RuntimeChoice = Literal["auto", "torch", "openvino"]
RANDOM = "random:"
"""Prefix of a model's name that requests the architecture with random weights."""


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    towers: TowerChoice = "all",
    runtime: RuntimeChoice = "auto",
    precision: PrecisionChoice = "auto",
    dimensions: int | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Load a model with its weights as an `Encoder`.

    `name`: "builtin"; any model name or alias, fetched from the hub once; the path of a checkpoint, or of a directory
    that `pe convert` wrote; or another library's model: "timm:NAME", "open_clip:NAME,WEIGHTS", "hf:NAME"
    (transformers), "st:NAME" (sentence-transformers), each also with `local-dir:PATH` or a path, and "random:NAME" for
    random weights. `device`: by default a CUDA GPU if there is one. `towers="text"` leaves the vision tower of a
    two-tower model of this package unread: it then encodes texts only.

    `runtime`: "torch", or "openvino" (extra `fast`), which only computes on a CPU; by default the fastest there, as
    measured once on each machine. `precision`: "float32", "bfloat16", by default if it is fast, or "int8", OpenVINO's.
    `dtype`: the same as a torch type. Other libraries' embeddings are computed in float32 by default; those of
    sentence-transformers, of models whose images differ in size, and of layers with torch only.

    `dimensions`: length of vectors, for models trained for it (Matryoshka). `trust_remote_code`: run code that comes
    with a model of (sentence-)transformers. Raises UnknownModelError, CheckpointError, WeightsUnavailableError,
    ConfigError for what does not fit together, and MissingExtraError without the library.
    """
    encoder = _load(name, device, dtype, towers, runtime, precision, trust_remote_code)
    return encoder if dimensions is None else encoder.cut(dimensions)


def _load(
    name: str | Path,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    towers: TowerChoice,
    runtime: RuntimeChoice,
    precision: PrecisionChoice,
    trust_remote_code: bool,
) -> Encoder:
    adapter, random = find_adapter(name, trust_remote_code)
    asked: str = precision
    if dtype is not None:
        asked = str(dtype).removeprefix("torch.")
        if precision not in (AUTO, asked):
            raise ConfigError(f"dtype is {asked}, but precision is {precision}; give one of them")
    check_choice(runtime, precision)
    if random or adapter is not None:
        return _load_external(name, adapter, device, dtype, runtime, asked)
    path, _ = find_weights(name)  # fails at once without a network; the runtimes may have to be timed
    ran: RuntimeName = "torch"
    kind: Precision | None = None
    if dtype is None or asked in PRECISIONS or runtime == "openvino":  # others, such as float16, are torch's
        ran, kind = choose(runtime, asked, None if device is None else str(device))
    cached_hash = CachedHash(path) if path.is_file() else None  # as the file is before it is read
    if ran == "torch":
        return _load_torch(name, device, dtype if kind is None else _as_dtype(kind), towers, cached_hash)
    assert kind is not None
    info = _describe(name, cached_hash)
    info = replace(info, name=shown_name(str(name)) or info.name)
    load_again = partial(_load_same, name, info.weights)
    return Encoder.of(
        ExecutedModel(
            name=info.name,
            runtime=OpenVinoRuntime(info, kind, load_again),
            vision=info.vision,
            text=info.text,
            hash_weights=lambda: info.weights,
            source=name,
            load=load_again,
        )
    )


def as_encoder(
    model: str | Path | Encoder | None,
    towers: TowerChoice = "all",
    precision: PrecisionChoice = "auto",
    dimensions: int | None = None,
    trust_remote_code: bool = False,
) -> Encoder:
    """Return the given encoder, or load one by name or path; by default the default model.

    `precision`: by default the one that `pe models use` stored with the model. Raises ConfigError if a given encoder
    has another. `dimensions`, `trust_remote_code`: see `load`.
    """
    if isinstance(model, Encoder):
        if precision not in ("auto", model.runtime.precision):
            raise ConfigError(
                f"the given encoder computes in {model.runtime.precision}, not {precision}; omit precision"
            )
        return model if dimensions in (None, model.dimension) else model.cut(dimensions)
    name = model or default_model()
    if precision == "auto":
        precision = cast(PrecisionChoice, chosen_precision(str(name)) or "auto")
    return load(name, towers=towers, precision=precision, dimensions=dimensions, trust_remote_code=trust_remote_code)


def _describe(name: str | Path, cached_hash: CachedHash | None) -> ModelInfo:
    """Return what is known of a model: cached for its file, else by reading its weights."""
    weights = cached_hash.find() if cached_hash else None
    if cached_hash and weights and (info := cache.find_info(cached_hash.key, weights)):
        return info
    from perception_encoder.models.checkpoints.weights import load_model, weight_hash
    from perception_encoder.runtime.torch_runtime import describe

    model = load_model(name)
    if cached_hash is None:
        return describe(model, weight_hash(model))
    info = describe(model, cached_hash.get(lambda: weight_hash(model)))
    cache.store_info(cached_hash.key, info)
    return info


def _load_same(name: str | Path, weights: str) -> Model:
    """Load a model again; CheckpointError unless it still has the weights with this hash."""
    from perception_encoder.models.checkpoints.weights import load_model, weight_hash

    model = load_model(name)
    if weight_hash(model) != weights:
        raise CheckpointError(f"{name} has changed since it was loaded; load it again")
    return model


def _load_torch(
    name: str | Path,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    towers: TowerChoice,
    cached_hash: CachedHash | None,
) -> Encoder:
    import torch

    from perception_encoder.models.checkpoints.weights import load_model, weight_hash
    from perception_encoder.models.clip import CLIP
    from perception_encoder.models.precision import choose_device, fast_dtype
    from perception_encoder.runtime.torch_runtime import TorchRuntime

    device = choose_device(device)
    dtype = dtype or fast_dtype(device)
    model = load_model(name, towers)
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device, dtype)
    exact = dtype == torch.float32 and all(not parameter.is_meta for parameter in model.parameters())

    def compute() -> str:
        return weight_hash(model if exact else load_model(name))

    def hash_weights() -> str:
        return compute() if cached_hash is None else cached_hash.get(compute)

    runtime = TorchRuntime(model, device, dtype)
    return Encoder.of(
        ExecutedModel(
            name=shown_name(str(name)) or model.name,
            runtime=runtime,
            vision=runtime.visual.config,
            text=model.text.config if isinstance(model, CLIP) else None,
            hash_weights=hash_weights,
            source=name,
        )
    )


def _load_external(
    name: str | Path,
    adapter: Adapter | None,
    device: str | torch.device | None,
    dtype: torch.dtype | None,
    runtime: RuntimeChoice,
    asked: str,
) -> Encoder:
    from perception_encoder.inference.external_encoder import LayerEncoder, OutputEncoder
    from perception_encoder.inference.layer_features import LayerFeatures
    from perception_encoder.models.precision import choose_device

    own = adapter if adapter is not None and not adapter.random and adapter.has_output else None
    if own is not None and asked == AUTO:
        asked = "float32"
    if own is not None and own.image_shape and asked in PRECISIONS:
        ran, kind = choose(runtime, asked, None if device is None else str(device))
        if ran == "openvino":
            return OutputEncoder(own, compiled=kind)
    elif runtime == "openvino" or asked == "int8":
        raise ConfigError(f"{name} runs in torch only; omit runtime and precision")
    dtype = dtype or _as_dtype(asked)
    if own is not None:
        return OutputEncoder(own, choose_device(device), dtype)
    tower = load_tower(name) if adapter is None else adapter.tower()
    return LayerEncoder(LayerFeatures(_shown(name, adapter), tower, device, dtype, final_norm=True))


def _as_dtype(precision: str) -> torch.dtype | None:
    import torch

    return None if precision == AUTO else cast(torch.dtype, getattr(torch, precision))


def load_layers(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    layer: int = -1,
    final_norm: bool = False,
    trust_remote_code: bool = False,
) -> LayerFeatures:
    """Load the vision tower of a model of any library as `LayerFeatures`.

    `name`, `trust_remote_code`: see `load`. `layer`: the selected one, negative from the end. `final_norm`: apply the
    model's final norm to the last layer. Raises UnknownModelError, CheckpointError and WeightsUnavailableError,
    ConfigError for a model that is not a plain vision transformer or lacks the layer, and MissingExtraError if its
    library is not installed.
    """
    from perception_encoder.inference.layer_features import LayerFeatures

    adapter, _ = find_adapter(name)
    return LayerFeatures(_shown(name, adapter), load_tower(name, trust_remote_code), device, dtype, final_norm).at(
        layer
    )


def _shown(name: str | Path, adapter: Adapter | None) -> str:
    source = str(name).removeprefix(RANDOM)
    random = "" if source == str(name) else RANDOM
    return adapter.name if adapter else random + (shown_name(source) or Path(source).stem)


def load_tower(name: str | Path, trust_remote_code: bool = False) -> Tower:
    """Load the vision tower of a model of any library, ready for training; raises what `load_layers` does."""
    import torch

    from perception_encoder.models.checkpoints.weights import create_model, load_model
    from perception_encoder.models.initialization import initialize
    from perception_encoder.models.tower import Tower

    adapter, random = find_adapter(name, trust_remote_code)
    if adapter is not None:
        return adapter.tower()
    source = str(name).removeprefix(RANDOM)
    if random and canonical_name(source) is not None:
        return Tower.of(create_model(source))
    model = load_model(source)
    if random:
        initialize(model, torch.Generator().manual_seed(0))
    return Tower.of(model)


def find_adapter(name: str | Path, trust_remote_code: bool = False) -> tuple[Adapter | None, bool]:
    """Return the adapter of another library's model, None for this package's; and whether it has random weights."""
    source = portable_name(str(name))
    random = source.startswith(RANDOM)
    library = library_of(source)
    if not library:
        return None, random
    from perception_encoder.models import external, external_sentences, external_transformers

    adapters: dict[str, type[Adapter]] = {
        "timm": external.TimmModel,
        "open_clip": external.OpenClipModel,
        "hf": external_transformers.TransformersModel,
        "st": external_sentences.SentenceTransformersModel,
    }
    listed = source.removeprefix(RANDOM).partition(":")[2]
    return adapters[library](source, listed, random, trust_remote_code), random
