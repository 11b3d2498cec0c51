"""`pe models use`: which kind of default a model becomes; and the warning that a command used a demo model."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.cli import output
from perception_encoder.errors import CheckpointError, ConfigError, UnknownModelError
from perception_encoder.models.defaults import BUILTIN_DEFAULTS, DefaultKind, store_choice
from perception_encoder.models.defaults import VARIABLE as VARIABLE
from perception_encoder.models.defaults import chosen_model as chosen_model
from perception_encoder.models.defaults import config_directory as config_directory
from perception_encoder.models.defaults import default_model as default_model
from perception_encoder.models.defaults import demo_line as demo_line
from perception_encoder.models.defaults import language_model as language_model
from perception_encoder.models.defaults import unchecked_default as unchecked_default
from perception_encoder.models.registry import (
    BUILTIN_LANG,
    DETECTORS,
    OTHER_MODELS,
    canonical_name,
    find_model,
    portable_name,
    shown_name,
    unknown_name,
)

USED_BY: dict[DefaultKind, str] = {
    "model": "search, classify, embed and every other command that compares images and texts",
    "spatial": "track and segment",
    "language": "ask, caption and engine run",
    "depth": "depth",
    "detection": "detect",
    "segmentation": "segment",
}
"""The commands that use the default of each kind."""
_LANGUAGE_FORMS = ("http://", "https://", "hf:", "python:")


def choose_model(name: str) -> tuple[DefaultKind, str]:
    """Make a model the default of its kind, an encoder downloaded if needed.

    Returns the kind, and the stored name or absolute path. Raises what loading the model raises.
    """
    from perception_encoder.models.checkpoints.weights import find_weights

    kind = kind_of(name)
    if kind in ("model", "spatial"):
        find_weights(name)
    stored_name = shown_name(name) or portable_name(name)
    store_choice(kind, stored_name)
    return kind, stored_name


def kind_of(name: str) -> DefaultKind:
    """Return what a model is for; UnknownModelError and CheckpointError if it is not a model."""
    builtin: dict[str, DefaultKind] = {model: kind for kind, model in BUILTIN_DEFAULTS.items()} | {
        BUILTIN_LANG: "language"
    }
    if name in builtin:
        return builtin[name]
    if canonical_name(name) is not None:
        return "model" if find_model(name).text is not None else "spatial"
    path = Path(name)
    if name.startswith(_LANGUAGE_FORMS) or (not path.exists() and _is_perception_lm(name)):
        return "language"
    if name.lower() == DETECTORS.lower():
        raise UnknownModelError(f"{DETECTORS} has several detectors; download one, then: pe models use FILE")
    return _kind_of_directory(path) if path.is_dir() else _kind_of_file(path)


def _is_perception_lm(name: str) -> bool:
    """Whether a name is of a published Perception-LM, or may be of another user's on the hub."""
    if "perception-lm" not in name.lower():
        return False
    owner, *rest = name.lower().split("/")
    return name.lower() in map(str.lower, OTHER_MODELS) or (len(rest) == 1 and owner not in ("facebook", ".", "..", ""))


def _kind_of_directory(path: Path) -> DefaultKind:
    from perception_encoder.language_alignment.load import WEIGHTS
    from perception_encoder.models.checkpoints.weights import find_entry

    if (path / WEIGHTS).is_file():
        return "language"
    try:
        settings = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        settings = None
    if isinstance(settings, dict) and settings.get("model_type") == "perception_lm":
        return "language"
    return "model" if find_entry(path).text is not None else "spatial"


def _kind_of_file(path: Path) -> DefaultKind:
    from perception_encoder.dense_prediction import dense_model
    from perception_encoder.dense_prediction.published_detectors import published_detector
    from perception_encoder.language_alignment import weights as language_weights
    from perception_encoder.models.checkpoints.files import SUFFIXES, read_checkpoint
    from perception_encoder.models.checkpoints.weights import find_entry

    if path.suffix not in SUFFIXES and not path.exists():
        raise unknown_name(str(path), OTHER_MODELS)
    tensors, metadata = read_checkpoint(path)
    if dense_model.METADATA in metadata:
        kinds: dict[str, DefaultKind] = {"depth": "depth", "segmentation": "segmentation"}
        return kinds.get(dense_model.head_info(path, metadata).task, "detection")
    if language_weights.METADATA in metadata:
        return "language"
    try:
        return "model" if find_entry(path).text is not None else "spatial"
    except CheckpointError as error:
        try:
            published_detector(path, tensors, ())
        except (CheckpointError, ConfigError):
            raise error from None
        return "detection"


def print_demo(*sources: str | Path | None, option: str | None = None) -> None:
    """Warn on stderr of the built-in demos among a command's models; `option`: the value of `-m`."""
    for line in dict.fromkeys(demo_line(str(source), option) for source in sources if source is not None):
        if line:
            output.print_warning(line)
