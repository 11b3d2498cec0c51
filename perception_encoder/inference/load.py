"""Load any model by its name: this package's, and those of timm, open_clip, (sentence-)transformers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack, cast

from perception_encoder.errors import ConfigError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.model_spec import ModelKeywords, ModelSpec
from perception_encoder.models.checkpoints.find import TowerChoice, find_weights
from perception_encoder.models.defaults import chosen_precision, default_model
from perception_encoder.models.libraries import find_adapter
from perception_encoder.runtime.choice import runtime_for
from perception_encoder.runtime.openvino_towers import OpenVinoTowers
from perception_encoder.runtime.runtime import AUTO, PRECISIONS, Precision, check_choice

if TYPE_CHECKING:
    import torch

    from perception_encoder.inference.layer_features import LayerFeatures
    from perception_encoder.models.external import Adapter

ModelLike = str | Path | ModelSpec | Encoder | None
"""The model of a call: a name or path, a spec, or a loaded encoder; None for the default model."""


def load(
    name: str | Path | ModelSpec,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    towers: TowerChoice = "all",
    **keywords: Unpack[ModelKeywords],
) -> Encoder:
    """Load a model, with its transform and tokenizer.

    Args:
        name: A model name or alias, fetched from the hub once; "builtin"; the path of a checkpoint, or of a directory
            that `pe convert` wrote; "random:NAME" for random weights; or another library's model: "timm:NAME",
            "open_clip:NAME,WEIGHTS", "hf:NAME" (transformers), "st:NAME" (sentence-transformers), each also with
            `local-dir:PATH` or a path.
        device: By default a CUDA GPU if there is one.
        dtype: The precision, as a torch type.
        towers: "text" leaves the vision tower of a two-tower model of this package unread: it then encodes texts only.
        **keywords: Fields of a `ModelSpec`.

    Raises:
        UnknownModelError: The name is unknown.
        CheckpointError: The file is not a checkpoint, or of no known architecture.
        WeightsUnavailableError: The weights are not cached, and could not be fetched.
        ConfigError: The model lacks a setting, or settings do not fit together.
        MissingExtraError: The model's library, or OpenVINO, is not installed.

    Examples:
        >>> encoder = pe.load("PE-Core-L14-336", precision="int8")
    """
    return load_spec(ModelSpec.of(name, device, **keywords), towers, dtype)


def as_encoder(model: ModelLike, **keywords: Unpack[ModelKeywords]) -> Encoder:
    """Return the encoder of a call's model and keywords: see `choose_model` and `load_chosen`."""
    return load_chosen(choose_model(model, **keywords))


def choose_model(model: ModelLike, **keywords: Unpack[ModelKeywords]) -> ModelSpec | Encoder:
    """Return the spec of a call's model and keywords, or a given encoder with its layer and length adjusted.

    Raises ConfigError if the encoder computes in another precision or elsewhere.
    """
    if not isinstance(model, Encoder):
        return ModelSpec.of(model, **keywords)
    spec = ModelSpec.of(None, **keywords)
    if spec.precision not in (AUTO, model.runtime.precision):
        raise ConfigError(
            f"the given encoder computes in {model.runtime.precision}, not {spec.precision}; omit precision"
        )
    if spec.device is not None and str(spec.device) != str(model.device):
        raise ConfigError(f"the given encoder computes on {model.device}, not {spec.device}; omit device")
    return _adjusted(model, spec)


def load_chosen(chosen: ModelSpec | Encoder, towers: TowerChoice = "all") -> Encoder:
    """Return what `choose_model` chose: a given encoder, or a loaded one; by default the default model.

    The default precision is the one that `pe models use` stored with the model.
    """
    if isinstance(chosen, Encoder):
        return chosen
    spec = replace(chosen, name=chosen.name or default_model())
    if spec.precision == AUTO:
        spec = replace(spec, precision=chosen_precision(str(spec.name)) or AUTO)
    return load_spec(spec, towers)


def load_spec(spec: ModelSpec, towers: TowerChoice = "all", dtype: torch.dtype | None = None) -> Encoder:
    """Load the model of a spec: see `load`."""
    check_choice(spec.runtime, spec.precision)
    spec = spec.with_dtype(dtype)
    adapter, random = find_adapter(spec.name, spec.trust_remote_code)
    if random or adapter is not None:
        encoder = _load_external(spec, adapter)
    else:
        found = find_weights(spec.name)  # fails at once without a network; the runtimes may have to be timed
        spec = choose_runtime(spec)
        if spec.runtime == "openvino":
            opened = OpenVinoTowers.load(found, cast(Precision, spec.precision))
            encoder = Encoder(opened, str(spec.name))
        else:
            from perception_encoder.models.precision import choose_device
            from perception_encoder.runtime.torch_towers import TorchTowers

            in_torch = TorchTowers.load(found, choose_device(spec.device), spec.dtype, towers)
            encoder = Encoder(in_torch, str(spec.name))
    encoder.trust_remote_code = spec.trust_remote_code
    return _adjusted(encoder, spec)


def choose_runtime(spec: ModelSpec) -> ModelSpec:
    """Return a spec with the runtime and precision to use, "auto" if torch chooses its precision: see `runtime_for`."""
    if spec.precision in ("float16", "float64") and spec.runtime != "openvino":  # types that only torch has
        return replace(spec, runtime="torch")
    ran, kind = runtime_for(spec.runtime, spec.precision, None if spec.device is None else str(spec.device))
    return replace(spec, runtime=ran, precision=kind or AUTO)


def _adjusted(encoder: Encoder, spec: ModelSpec) -> Encoder:
    """Return an encoder with the layer, pooling, length of vectors and decoding of a spec."""
    if (spec.layer, spec.pool) != (None, None):
        encoder = encoder.variant(layer=spec.layer, pool=spec.pool)
    if spec.decoding is not None:
        encoder = encoder.decoding_as(spec.decoding)
    return encoder if spec.dimensions is None else encoder.cut(spec.dimensions)


def _load_external(spec: ModelSpec, adapter: Adapter | None) -> Encoder:
    from perception_encoder.models.precision import choose_device
    from perception_encoder.runtime.layer_towers import LayerTowers
    from perception_encoder.runtime.library_towers import LibraryTowers

    own = adapter if adapter is not None and not adapter.random and adapter.has_output else None
    if own is not None and spec.precision == AUTO:
        spec = replace(spec, precision="float32")
    if own is not None and (own.image_shape or own.has_token_rows) and spec.precision in PRECISIONS:
        spec = choose_runtime(spec)
        if spec.runtime == "openvino":
            return Encoder(LibraryTowers(own, compiled=cast(Precision, spec.precision)), own.name)
    else:
        _check_torch(spec)
    if own is not None:
        return Encoder(LibraryTowers(own, choose_device(spec.device), spec.dtype), own.name)
    towers = LayerTowers.load(spec.name, adapter, spec.device, spec.dtype, final_norm=True)
    return Encoder(towers, towers.source).variant(layer=-1)


def _check_torch(spec: ModelSpec) -> None:
    if spec.runtime == "openvino" or spec.precision == "int8":
        raise ConfigError(f"{spec.name} runs in torch only; omit runtime and precision")


def load_layers(
    name: str | Path | ModelSpec,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    *,
    layer: int | None = None,
    final_norm: bool = False,
    trust_remote_code: bool = False,
) -> LayerFeatures:
    """Load the vision tower of a model of any library, for the features of its layers.

    Args:
        name: See `pe.load`.
        device: By default a CUDA GPU if there is one.
        dtype: By default bfloat16 if it is fast.
        layer: 0-based, or negative from the end; by default the last.
        final_norm: Apply the model's final norm to the last layer.
        trust_remote_code: See `ModelSpec`.

    Raises:
        ModelError, MissingExtraError: See `pe.load`.
        ConfigError: The model is not a plain vision transformer, or lacks the layer.

    Examples:
        >>> layers = pe.load_layers("timm:vit_small_patch14_dinov2.lvd142m", layer=-3)
    """
    from perception_encoder.inference.layer_features import LayerFeatures
    from perception_encoder.runtime.layer_towers import LayerTowers

    spec = ModelSpec.of(name, device, layer=layer, trust_remote_code=trust_remote_code).with_dtype(dtype)
    _check_torch(spec)
    adapter, _ = find_adapter(spec.name, spec.trust_remote_code)
    towers = LayerTowers.load(spec.name, adapter, spec.device, spec.dtype, final_norm)
    return LayerFeatures(towers).at(-1 if spec.layer is None else spec.layer)


def open_layers(
    model: str | Path | ModelSpec | Encoder | LayerFeatures, layer: int | None = None, final_norm: bool = False
) -> LayerFeatures:
    """Return a model at a layer, by default the last, or the selected one of given `LayerFeatures`."""
    from perception_encoder.inference.layer_features import LayerFeatures

    if isinstance(model, LayerFeatures):
        return model if layer is None else model.at(layer)
    if isinstance(model, Encoder):
        return LayerFeatures.of(model, final_norm).at(-1 if layer is None else layer)
    return load_layers(model, layer=layer, final_norm=final_norm)
