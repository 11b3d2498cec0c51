"""The user's default models, one per kind: chosen by `pe models use` or PE_MODEL, else a built-in demo."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import ConfigError
from perception_encoder.files import write_json
from perception_encoder.models.precision import VARIABLE as DTYPE_VARIABLE
from perception_encoder.models.registry import (
    BUILTIN,
    BUILTIN_DEPTH,
    BUILTIN_DETECTOR,
    BUILTIN_LANG,
    OTHER_MODELS,
    SMALL_LANG,
    ListedModel,
    canonical_name,
    choose_command,
    find_listed,
    list_models,
)
from perception_encoder.records import parse_json

VARIABLE = "PE_MODEL"
PRECISION = "precision"
DefaultKind = Literal["model", "spatial", "language", "depth", "detection", "segmentation"]
BUILTIN_DEFAULTS: dict[DefaultKind, str] = {
    "model": "builtin",
    "spatial": "builtin-spatial",
    "language": BUILTIN_LANG,
    "depth": BUILTIN_DEPTH,
    "detection": BUILTIN_DETECTOR,
}


@dataclass(frozen=True)
class DefaultModel:
    """The model that the user chose for a kind."""

    kind: DefaultKind
    name: str
    precision: str | None = None

    @property
    def used_by(self) -> str:
        """The commands that use it."""
        return _USED_BY[self.kind]


_USED_BY: dict[DefaultKind, str] = {
    "model": "search, classify, embed and every other command that compares images and texts",
    "spatial": "track and segment",
    "language": "ask, caption and engine run",
    "depth": "depth",
    "detection": "detect",
    "segmentation": "segment",
}


def chosen_model(kind: DefaultKind = "model") -> str | None:
    """Return the user's choice: PE_MODEL for "model", else what `pe models use` stored; ConfigError for a damaged file.

    A stored path may no longer exist.
    """
    return (os.environ.get(VARIABLE) if kind == "model" else None) or _stored().get(kind)


def chosen_precision(name: str) -> str | None:
    """Return the precision that `pe models use` stored with a model, under any of its names; None without one.

    PE_DTYPE overrides it. ConfigError for a damaged file.
    """
    stored = _stored()
    model = stored.get("model", "")
    if os.environ.get(DTYPE_VARIABLE) or (canonical_name(model) or model) != (canonical_name(name) or name):
        return None
    return stored.get(PRECISION)


def _stored() -> dict[str, str]:
    path = _path()
    if not path.is_file():
        return {}
    try:
        return parse_json(path.read_bytes(), dict[str, str])
    except (OSError, ValueError):
        raise ConfigError(f"{path} does not name a model; choose one with: pe models use NAME") from None


def default_model(kind: DefaultKind = "model") -> str:
    """Return the model of a command without `-m`; it may not exist."""
    return chosen_model(kind) or BUILTIN_DEFAULTS[kind]


def language_model(option: str | None) -> str:
    """Return the engine's language model, from `-m` (`option`) or `pe models use`; ConfigError without a choice."""
    model = option or chosen_model("language")
    if model is None:
        raise ConfigError(
            f"no language model is chosen; choose one for every command, such as: {choose_command(SMALL_LANG)}; "
            f"or for this one with -m MODEL (-m {BUILTIN_LANG} is a small offline demo)"
        )
    return model


def chosen_models() -> list[DefaultModel]:
    """Return the user's choices; ConfigError for a damaged file."""
    return [DefaultModel(kind, name) for kind in _USED_BY if (name := chosen_model(kind))]


def describe_models(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Describe models, by default all, by what the registry says of them and whether they are a default.

    UnknownModelError shows near matches.
    """
    chosen = [default.name for default in chosen_models()]
    encoder = canonical_name(chosen_model() or BUILTIN)
    described = []
    for entry in map(find_listed, names or [*list_models(), *OTHER_MODELS]):
        values = dataclasses.asdict(entry)
        if isinstance(entry, ListedModel):
            values["default"] = entry.name in chosen
        else:
            values |= {name: getattr(entry, name) for name in ("purpose", "repository", "download_bytes", "aliases")}
            values["default"] = encoder == entry.name
        described.append(values)
    return described


def store_choice(kind: DefaultKind, name: str, precision: str | None = None) -> DefaultModel:
    """Make a model the default of its kind; `precision`: of the kind "model", None for the fastest.

    The environment variable PE_MODEL still overrides it.
    """
    try:
        earlier = _stored()
    except ConfigError:
        earlier = {}
    if kind == "model":
        earlier.pop(PRECISION, None)
    write_json(_path(), {**earlier, kind: name, **({PRECISION: precision} if precision else {})})
    return DefaultModel(kind, name, precision)


def _path() -> Path:
    return config_directory() / "config.json"


def config_directory() -> Path:
    """Return the directory of the user's settings."""
    import platformdirs

    return platformdirs.user_config_path("perception-encoder")
