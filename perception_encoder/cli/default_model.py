"""The default model: PE_MODEL, else the one that `pe models use` stored, else the built-in demo model."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

from perception_encoder.cli import output
from perception_encoder.errors import ConfigError, UnknownModelError
from perception_encoder.models.registry import BUILTIN, canonical_name, find_model, portable_name

VARIABLE = "PE_MODEL"
REAL = "PE-Core-L14-336"
"""The model that the line about the demo model recommends."""


def chosen_model() -> str | None:
    """Return the model that the user chose by PE_MODEL or `pe models use`, or None. ConfigError for a damaged file."""
    return _choice()[0]


def _choice() -> tuple[str | None, str]:
    """Return the model that the user chose, and where the choice comes from."""
    from_environment = os.environ.get(VARIABLE)
    path = _path()
    if from_environment or not path.is_file():
        return from_environment or None, f"the environment variable {VARIABLE}"
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        model = None
    if not isinstance(model, str):
        raise ConfigError(f"{path} does not name a model; choose one with: pe models use NAME")
    return model, str(path)


def unchecked_default() -> str:
    """Return the model of a command without `-m`, without checking that it exists."""
    return chosen_model() or "builtin"


def default_model() -> str:
    """Return the model of a command without `-m`; UnknownModelError, with the origin of the name, if it is unknown."""
    model, origin = _choice()
    if model is not None and canonical_name(model) is None and not Path(model).exists():
        raise UnknownModelError(
            f"{origin} names {model!r}, which is neither a model nor a file; `pe models` lists all models"
        )
    return model or "builtin"


def choose_model(name: str) -> str:
    """Make a model the default, downloaded if needed; returns the stored canonical name or absolute path.

    Raises ConfigError for a model without a text tower, and what `load_model` raises.
    """
    from perception_encoder.files import write_json
    from perception_encoder.models.checkpoints.weights import find_entry, find_weights

    if find_entry(name).text is None:
        raise ConfigError(f"{name} has no text tower, which search and classify need; choose a Core model")
    find_weights(name)
    full_name = canonical_name(name) or portable_name(name)
    write_json(_path(), {"model": full_name})
    return full_name


def demo_line(source: str, option: str | None) -> str:
    """Return a line about the demo model if it was used but neither `-m` (`option`) nor the user chose it, else ""."""
    choice = chosen_model()
    if canonical_name(source) != BUILTIN or BUILTIN in {canonical_name(name) for name in (option, choice) if name}:
        return ""
    if choice is not None:
        rebuild = shlex.join(["pe", "index", "--rebuild", "-m", choice, "DIR"])
        return f"this index uses the built-in model, a small demo; to use {choice}: {rebuild}"
    size = find_model(REAL).download_bytes / 1e9
    return f"the built-in model is a small offline demo; for a full model ({size:.1f} GB): pe models use {REAL}"


def print_demo(source: str, option: str | None, json: bool = False) -> None:
    """Print `demo_line`, if there is one: below the results, or on stderr if they are JSON or piped."""
    if line := demo_line(source, option):
        (output.print_note if json else output.print_remark)(line)


def _path() -> Path:
    import platformdirs

    return platformdirs.user_config_path("perception-encoder") / "config.json"
