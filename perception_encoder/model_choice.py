"""Choose a model as the default of the commands that can use it."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.dense_prediction import dense_model
from perception_encoder.dense_prediction.published_detectors import published_detector
from perception_encoder.errors import ConfigError, UnknownModelError, WeightsUnavailableError
from perception_encoder.inference.load import load
from perception_encoder.inference.model_spec import ModelSpec, PrecisionChoice
from perception_encoder.language_models.weights import METADATA, WEIGHTS
from perception_encoder.models.checkpoints.files import SUFFIXES, read_checkpoint
from perception_encoder.models.checkpoints.find import find_weights, hub_or_cache
from perception_encoder.models.checkpoints.weights import find_entry
from perception_encoder.models.defaults import BUILTIN_DEFAULTS, DefaultKind, DefaultModel, store_choice
from perception_encoder.models.external_transformers import is_two_tower
from perception_encoder.models.registry import (
    DETECTORS,
    OTHER_MODELS,
    canonical_name,
    find_model,
    library_of,
    needs_code,
    no_directory,
    portable_name,
    shown_name,
    split_library,
)
from perception_encoder.runtime.choice import runtime_for


def use_model(
    model: str | Path | ModelSpec, *, precision: PrecisionChoice = "auto", trust_remote_code: bool = False
) -> DefaultModel:
    """Make a model the default of its kind, like `pe models use`, and return the choice; an encoder is downloaded now.

    Args:
        model: A name or path, of an encoder, a language model or a head.
        precision: Of a model with a text tower; by default the fastest.
        trust_remote_code: See `ModelSpec`; it is not stored.

    Raises:
        ConfigError: The model has no text tower and a precision is given, or this machine cannot compute in it.
        ModelError: It is not a model, or cannot be downloaded.

    Examples:
        >>> pe.use_model("PE-Core-L14-336", precision="int8").used_by
    """
    spec = ModelSpec.of(model, precision=precision, trust_remote_code=trust_remote_code)
    name, kind = str(spec.name), kind_of(spec)
    stored = None if spec.precision == "auto" else spec.precision
    if stored and kind != "model":
        raise ConfigError(f"{name} has no text tower; --precision is for models with one")
    if stored and not library_of(name):
        runtime_for("auto", stored, None)
    if kind == "model" and library_of(name):
        load(spec)  # which says what is wrong
    elif kind in ("model", "spatial"):
        find_weights(name)
    return store_choice(kind, shown_name(name) or portable_name(name), stored)


def kind_of(model: ModelSpec) -> DefaultKind:
    """Return the use of a model; UnknownModelError and CheckpointError if it is not a model."""
    builtin: dict[str, DefaultKind] = {name: kind for kind, name in BUILTIN_DEFAULTS.items()}
    name = str(model.name)
    path, config = Path(name), Path(name) / "config.json"
    if name in builtin:
        return builtin[name]
    if name == DETECTORS:
        raise UnknownModelError(f"{DETECTORS} has several detectors; download one, then: pe models use FILE")
    if (library := library_of(name)) == "hf" and no_directory(directory := split_library(name)[1]):
        raise WeightsUnavailableError(f"{name} is not a model: there is no directory {directory}")
    if library and (library != "hf" or _is_encoder(model)):
        return "model"
    if library or name in OTHER_MODELS or name.startswith(("http://", "https://", "python:")):
        return "language"
    if canonical_name(name) is None and path.suffix not in SUFFIXES and not path.exists():
        find_model(name, OTHER_MODELS)  # raises, with near matches
    if (path / WEIGHTS).is_file() or (config.is_file() and b'"perception_lm"' in config.read_bytes()):
        return "language"
    if path.is_file():
        tensors, metadata = read_checkpoint(path)
        if dense_model.METADATA in metadata:
            heads: dict[str, DefaultKind] = {"depth": "depth", "segmentation": "segmentation"}
            return heads.get(dense_model.head_info(path, metadata).task, "detection")
        if METADATA in metadata:
            return "language"
        if any(name.startswith(("roi_heads.", "transformer.level_embed")) for name in tensors):
            published_detector(path, tensors)
            return "detection"
    return "model" if find_entry(name).text is not None else "spatial"


def _is_encoder(model: ModelSpec) -> bool:
    """Return whether a model of transformers has embeddings of images and texts, or is a vision tower.

    WeightsUnavailableError without the hub, and for a model that needs its own code without trust.
    """
    try:
        from transformers import AutoConfig, AutoModel

        trust_remote_code, source = model.trust_remote_code, split_library(str(model.name))[1]
        with hub_or_cache(str(model.name), not Path(source).is_dir(), "hf:DIRECTORY"):
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        if own := getattr(config, "auto_map", {}):
            return "AutoModelForCausalLM" not in own
        is_vision_tower = hasattr(config, "patch_size") and hasattr(config, "image_size")
        return is_vision_tower or is_two_tower(AutoModel._model_mapping[type(config)])
    except WeightsUnavailableError:
        raise
    except Exception as error:  # of a missing library or file; a language model says more when it is loaded
        if "trust_remote_code" in str(error):
            raise WeightsUnavailableError(needs_code(str(model.name))) from None
        return False
