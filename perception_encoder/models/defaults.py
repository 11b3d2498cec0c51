"""The user's default models, one per kind: chosen by `pe models use` or PE_MODEL, else a built-in demo.

Encoders of images and texts, spatial towers and heads fall back to a built-in demo. Language models do not: a demo's
answer in whole sentences would look like a real one.
"""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any, Literal, get_args

from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.files import write_json
from perception_encoder.models.registry import (
    BUILTIN_DEPTH,
    BUILTIN_DETECTOR,
    BUILTIN_LANG,
    SMALL_LANG,
    canonical_name,
    choose_command,
    demo_note,
    shown_name,
)

VARIABLE = "PE_MODEL"
DefaultKind = Literal["model", "spatial", "language", "depth", "detection", "segmentation"]
BUILTIN_DEFAULTS: dict[DefaultKind, str] = {
    "model": "builtin",
    "spatial": "builtin-spatial",
    "depth": BUILTIN_DEPTH,
    "detection": BUILTIN_DETECTOR,
}


def chosen_model(kind: DefaultKind = "model") -> str | None:
    """Return the user's choice: PE_MODEL for "model", else what `pe models use` stored; ConfigError for a damaged file.

    Raises UnknownModelError if a stored path is gone.
    """
    model, origin = _choice(kind)
    if kind != "model" and model is not None and Path(model).is_absolute() and not Path(model).exists():
        raise UnknownModelError(f"{origin} names {model!r}, which does not exist; choose another: pe models use NAME")
    return model


def _choice(kind: DefaultKind) -> tuple[str | None, str]:
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
    return chosen_model() or BUILTIN_DEFAULTS["model"]


def default_model(kind: DefaultKind = "model") -> str:
    """Return the model of a command without `-m`; UnknownModelError, with the origin of the name, if it is unknown."""
    if kind != "model":
        return chosen_model(kind) or BUILTIN_DEFAULTS[kind]
    model, origin = _choice(kind)
    if model is not None and canonical_name(model) is None and not Path(model).exists():
        raise UnknownModelError(
            f"{origin} names {model!r}, which is neither a model nor a file; `pe models` lists all models"
        )
    return model or BUILTIN_DEFAULTS[kind]


def language_model(option: str | None) -> str:
    """Return the language model of a command, from `-m` (`option`) or `pe models use`; ConfigError without a choice."""
    model = option or chosen_model("language")
    if model is None:
        raise ConfigError(
            f"no language model is chosen; choose one for every command, such as: {choose_command(SMALL_LANG)}; "
            f"or for this one with -m MODEL (-m {BUILTIN_LANG} is a small offline demo)"
        )
    return model


def store_choice(kind: DefaultKind, name: str) -> None:
    """Make a model the default of its kind."""
    try:
        earlier = _stored()
    except ConfigError:
        earlier = {}
    write_json(_path(), {**{key: value for key, value in earlier.items() if key in get_args(DefaultKind)}, kind: name})


def demo_line(source: str, option: str | None = None) -> str:
    """Return `demo_note` of a model, or how to use the user's choice in an index made with the demo.

    `option`: the value of `-m`.
    """
    choice = chosen_model()
    name = shown_name(source) or source
    if option is None and choice is not None and name == "builtin" != shown_name(choice):
        rebuild = shlex.join(["pe", "index", "--rebuild", "-m", choice, "DIR"])
        return f"this index uses builtin, a small demo model; to use {choice}: {rebuild}"
    return demo_note(name)


def _path() -> Path:
    return config_directory() / "config.json"


def config_directory() -> Path:
    """Return the directory of the user's settings."""
    import platformdirs

    return platformdirs.user_config_path("perception-encoder")
