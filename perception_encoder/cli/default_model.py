"""The default models: those that `pe models use` stored, one for each kind; and the line that calls a model a demo.

Encoders of images and texts, spatial towers and heads have a built-in demo as the last resort. Language models have
none: an answer in whole sentences would look like a real one.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

from perception_encoder.cli import output
from perception_encoder.errors import CheckpointError, ConfigError, UnknownModelError
from perception_encoder.models.catalogue import (
    BUILTIN_DEPTH,
    BUILTIN_DETECTOR,
    BUILTIN_LANG,
    DETECTORS,
    OTHER_MODELS,
    SMALL_LANG,
    choose_command,
    demo_note,
)
from perception_encoder.models.registry import canonical_name, find_model, portable_name, shown_name, unknown_name

VARIABLE = "PE_MODEL"
Kind = Literal["model", "spatial", "language", "depth", "detection", "segmentation"]
USED_BY: dict[Kind, str] = {
    "model": "search, classify, embed and every other command that compares images and texts",
    "spatial": "track and segment",
    "language": "ask, caption and engine run",
    "depth": "depth",
    "detection": "detect",
    "segmentation": "segment",
}
"""The commands that use the default of each kind."""
_BUILTIN: dict[Kind, str] = {
    "model": "builtin",
    "spatial": "builtin-spatial",
    "depth": BUILTIN_DEPTH,
    "detection": BUILTIN_DETECTOR,
}
_LANGUAGE_FORMS = ("http://", "https://", "hf:", "python:")


def chosen_model(kind: Kind = "model") -> str | None:
    """Return the user's choice: PE_MODEL for "model", else what `pe models use` stored; ConfigError for a damaged file.

    Raises UnknownModelError if a stored path is gone.
    """
    model, origin = _choice(kind)
    if kind != "model" and model is not None and Path(model).is_absolute() and not Path(model).exists():
        raise UnknownModelError(f"{origin} names {model!r}, which does not exist; choose another: pe models use NAME")
    return model


def _choice(kind: Kind) -> tuple[str | None, str]:
    """Return the model that the user chose, and where the choice comes from."""
    from_environment = os.environ.get(VARIABLE) if kind == "model" else None
    if from_environment:
        return from_environment, f"the environment variable {VARIABLE}"
    return _stored().get(kind), str(_path())


def _stored() -> dict[str, str]:
    path = _path()
    if not path.is_file():
        return {}
    try:
        stored: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        stored = None
    names = stored if isinstance(stored, dict) else {}
    if not names or not all(isinstance(name, str) for name in names.values()):
        raise ConfigError(f"{path} does not name a model; choose one with: pe models use NAME")
    return names


def unchecked_default() -> str:
    """Return the model of a command without `-m`, without checking that it exists."""
    return chosen_model() or _BUILTIN["model"]


def default_model(kind: Kind = "model") -> str:
    """Return the model of a command without `-m`; UnknownModelError, with the origin of the name, if it is unknown."""
    if kind != "model":
        return chosen_model(kind) or _BUILTIN[kind]
    model, origin = _choice(kind)
    if model is not None and canonical_name(model) is None and not Path(model).exists():
        raise UnknownModelError(
            f"{origin} names {model!r}, which is neither a model nor a file; `pe models` lists all models"
        )
    return model or _BUILTIN[kind]


def language_model(option: str | None) -> str:
    """Return the language model of a command, from `-m` (`option`) or `pe models use`; ConfigError without a choice."""
    model = option or chosen_model("language")
    if model is None:
        raise ConfigError(
            f"no language model is chosen; choose one for every command, such as: {choose_command(SMALL_LANG)}; "
            f"or for this one with -m MODEL (-m {BUILTIN_LANG} is a small offline demo)"
        )
    return model


def choose_model(name: str) -> tuple[Kind, str]:
    """Make a model the default of its kind, an encoder downloaded if needed.

    Returns the kind, and the stored name or absolute path. Raises what loading the model raises.
    """
    from perception_encoder.files import write_json
    from perception_encoder.models.checkpoints.weights import find_weights

    kind = kind_of(name)
    if kind in ("model", "spatial"):
        find_weights(name)
    stored_name = shown_name(name) or portable_name(name)
    try:
        earlier = _stored()
    except ConfigError:
        earlier = {}
    write_json(_path(), {**{key: value for key, value in earlier.items() if key in get_args(Kind)}, kind: stored_name})
    return kind, stored_name


def kind_of(name: str) -> Kind:
    """Return what a model is for; UnknownModelError and CheckpointError for what is no model."""
    builtin: dict[str, Kind] = {model: kind for kind, model in _BUILTIN.items()} | {BUILTIN_LANG: "language"}
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


def _kind_of_directory(path: Path) -> Kind:
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


def _kind_of_file(path: Path) -> Kind:
    from perception_encoder.dense_prediction import dense_model
    from perception_encoder.dense_prediction.published.detectors import published_detector
    from perception_encoder.language_alignment import weights as language_weights
    from perception_encoder.models.checkpoints.files import SUFFIXES, read_checkpoint
    from perception_encoder.models.checkpoints.weights import find_entry

    if path.suffix not in SUFFIXES and not path.exists():
        raise unknown_name(str(path), OTHER_MODELS)
    tensors, metadata = read_checkpoint(path)
    if dense_model.METADATA in metadata:
        kinds: dict[str, Kind] = {"depth": "depth", "segmentation": "segmentation"}
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


def demo_line(source: str, option: str | None = None) -> str:
    """Return `demo_note` of a model, or how to use the user's choice in an index that was made with the demo.

    `option`: what `-m` said.
    """
    choice = chosen_model()
    name = shown_name(source) or source
    if option is None and choice is not None and name == "builtin" != shown_name(choice):
        rebuild = shlex.join(["pe", "index", "--rebuild", "-m", choice, "DIR"])
        return f"this index uses builtin, a small demo model; to use {choice}: {rebuild}"
    return demo_note(name)


def print_demo(*sources: str | Path | None, option: str | None = None) -> None:
    """Warn of each built-in demo among the models of a command, on stderr; `option`: what `-m` said."""
    for line in dict.fromkeys(demo_line(str(source), option) for source in sources if source is not None):
        if line:
            output.print_warning(line)


def _path() -> Path:
    return config_directory() / "config.json"


def config_directory() -> Path:
    """Return the directory of the user's settings."""
    import platformdirs

    return platformdirs.user_config_path("perception-encoder")
