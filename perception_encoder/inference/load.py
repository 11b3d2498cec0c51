"""Load any model by its name: this package's, and those of timm, open_clip and transformers."""

from __future__ import annotations

from pathlib import Path

import torch

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.external_encoder import LayerEncoder, OutputEncoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.models.checkpoints.files import CachedHash
from perception_encoder.models.checkpoints.find import TowerChoice, find_weights
from perception_encoder.models.checkpoints.weights import create_model, load_model
from perception_encoder.models.external import Adapter, OpenClipModel, TimmModel, TransformersModel
from perception_encoder.models.initialization import initialize
from perception_encoder.models.precision import choose_device, fast_dtype
from perception_encoder.models.registry import canonical_name, shown_name
from perception_encoder.models.tower import Tower

RANDOM = "random:"
"""Prefix of a model's name that requests the architecture with random weights."""
ADAPTERS: dict[str, type[Adapter]] = {
    adapter.library: adapter for adapter in (TimmModel, OpenClipModel, TransformersModel)
}


def load(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    towers: TowerChoice = "all",
) -> Encoder:
    """Load a model with its weights as an `Encoder`.

    `name`: "builtin"; any model name or alias, fetched from the hub once; the path of a checkpoint, or of a directory
    that `pe convert` wrote; or another library's model: "timm:NAME", "open_clip:NAME,WEIGHTS", "hf:NAME", each also
    with `local-dir:PATH` or a path, and "random:NAME" for random weights. `device`: by default a CUDA GPU if there is
    one. `dtype`: by default bfloat16 if it is fast; timm and open_clip run in float32 on the default device only.
    `towers="text"` leaves the vision tower of a two-tower model unread: it then encodes texts only. Raises
    UnknownModelError, CheckpointError, WeightsUnavailableError, and MissingExtraError without the library.
    """
    adapter, random = find_adapter(name)
    if random or (adapter is not None and not adapter.has_output):
        return LayerEncoder(load_layers(name, device, dtype, final_norm=True))
    if adapter is not None:
        if dtype not in (None, torch.float32) or (device is not None and choose_device(device) != choose_device()):
            raise ConfigError(f"{name} runs in float32 on {choose_device().type}; omit device and dtype")
        return OutputEncoder(adapter)
    device = choose_device(device)
    dtype = dtype or fast_dtype(device)
    path, _ = find_weights(name)
    cached_hash = CachedHash(path) if path.is_file() else None  # as the file is before it is read
    model = load_model(name, towers)
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.to(device, dtype)
    encoder = Encoder(model, device, dtype)
    encoder.name = shown_name(str(name)) or encoder.name
    encoder.cache_hash(name, cached_hash)
    return encoder


def load_layers(
    name: str | Path,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    layer: int = -1,
    final_norm: bool = False,
) -> LayerFeatures:
    """Load the vision tower of a model of any library as `LayerFeatures`.

    `name`: see `load`. `layer`: the selected one, negative from the end. `final_norm`: apply the model's final norm to
    the last layer. Raises UnknownModelError, CheckpointError and WeightsUnavailableError, ConfigError for a model that
    is not a plain vision transformer or lacks the layer, and MissingExtraError if its library is not installed.
    """
    adapter, random = find_adapter(name)
    source = str(name).removeprefix(RANDOM)
    shown = adapter.name if adapter else (RANDOM if random else "") + (shown_name(source) or Path(source).stem)
    return LayerFeatures(shown, load_tower(name), device, dtype, final_norm).at(layer)


def load_tower(name: str | Path) -> Tower:
    """Load the vision tower of a model of any library, ready for training; raises what `load_layers` does."""
    adapter, random = find_adapter(name)
    if adapter is not None:
        return adapter.tower()
    source = str(name).removeprefix(RANDOM)
    if random and canonical_name(source) is not None:
        return Tower.of(create_model(source))
    model = load_model(source)
    if random:
        initialize(model, torch.Generator().manual_seed(0))
    return Tower.of(model)


def find_adapter(name: str | Path) -> tuple[Adapter | None, bool]:
    """Return the adapter of another library's model, None for this package's; and whether it has random weights."""
    source = str(name).removeprefix(RANDOM)
    random = source != str(name)
    library, _, listed = source.partition(":")
    return (ADAPTERS[library](str(name), listed, random) if library in ADAPTERS else None), random
