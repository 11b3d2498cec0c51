"""`--set name.name=value`: the one way to change a recipe's setting, typed and validated."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Sequence
from typing import Any, TypeVar

from perception_encoder.errors import ConfigError

Config = TypeVar("Config")


def override(config: Config, settings: Sequence[str]) -> Config:
    """A copy of a (frozen, nested) dataclass with settings such as "optimizer.lr=1e-3" changed.

    Raises ConfigError for a name that does not exist (near matches shown) or a value of another type.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write name=value")
        config = _replace(config, path.strip().split("."), text.strip(), setting)
    return config


def _replace(config: Any, path: list[str], text: str, setting: str) -> Any:
    name, *rest = path
    if not dataclasses.is_dataclass(config) or isinstance(config, type):
        raise ConfigError(f"--set {setting}: {name} is inside a value that has no settings")
    names = [field.name for field in dataclasses.fields(config)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"--set {setting}: no setting is called {name}; {hint}")
    old = getattr(config, name)
    new = _replace(old, rest, text, setting) if rest else _parse(old, text, setting)
    return dataclasses.replace(config, **{name: new})


def _parse(old: Any, text: str, setting: str) -> Any:
    """`text` as a value of the type of `old`: number, text, true/false, or a JSON list of numbers for a tuple."""
    if isinstance(old, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise ConfigError(f"--set {setting}: {text!r} is no {type(old).__name__}") from None
    if isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, tuple) and isinstance(value, list) and len(value) == len(old):
        return tuple(_parse(o, json.dumps(v), setting) for o, v in zip(old, value, strict=True))
    if type(value) is not type(old):
        raise ConfigError(f"--set {setting}: {text} is no {type(old).__name__}, such as {old!r}")
    return value
