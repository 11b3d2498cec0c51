"""`--set name.name=value`: the one way to change a recipe's setting, typed and validated."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from perception_encoder.errors import ConfigError

Config = TypeVar("Config")


def override(config: Config, settings: Sequence[str]) -> Config:
    """A copy of a (frozen, nested) dataclass with settings changed.

    A name leads into dataclasses by field, into tuples by number (from 0) and into mappings by key:
    "optimizer.lr=1e-3", "stages.0.steps=100", "weights.flowers=0.2"; `null` is None where that is allowed, and a
    setting inside of what is None begins with its defaults. A JSON object replaces a whole mapping:
    'streams.captions={"alt_text": 1}'. Raises ConfigError for a name that does not exist (near matches shown), or a
    value of another type or out of range.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write name=value")
        try:
            config = _replace(config, type(config), path.strip().split("."), text.strip())
        except ConfigError as error:
            raise ConfigError(f"--set {setting}: {error}") from None
    return config


def _replace(old: Any, kind: Any, path: Sequence[str], text: str) -> Any:
    """`old`, which is declared as `kind`, with what `path` leads to replaced by the value that `text` says."""
    if not path:
        return _parse(old, kind, text)
    name, rest = path[0], path[1:]
    if old is None:  # what was off is turned on by any setting of it
        classes = [each for each in typing.get_args(kind) if isinstance(each, type) and dataclasses.is_dataclass(each)]
        old = classes[0]() if classes else None
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        kinds = typing.get_type_hints(type(old))
        _check(name, [field.name for field in dataclasses.fields(old)])
        return dataclasses.replace(old, **{name: _replace(getattr(old, name), kinds[name], rest, text)})
    if isinstance(old, Mapping):
        _check(name, old)
        return {**old, name: _replace(old[name], type(old[name]), rest, text)}
    if isinstance(old, tuple):
        _check(name, map(str, range(len(old))))
        at = int(name)
        return (*old[:at], _replace(old[at], type(old[at]), rest, text), *old[at + 1 :])
    raise ConfigError(f"{name} is inside a value that has no settings")


def _check(name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
        raise ConfigError(f"no setting is called {name}; {hint}")


def _parse(old: Any, kind: Any, text: str) -> Any:
    """`text` as a value of `kind`: number, text, true/false, null, or a JSON list or object."""
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if text == "null" and types.NoneType in kinds:
        return None
    if str in kinds:
        return text
    shown = " or ".join(getattr(each, "__name__", str(each)) for each in kinds)
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        raise ConfigError(f"{text!r} is no {shown}") from None
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, Mapping) and isinstance(value, dict):
        of = typing.get_args(kind)[1]
        return {name: _parse(None, of, json.dumps(each)) for name, each in value.items()}
    if isinstance(old, tuple) and isinstance(value, list) and len(value) == len(old):
        return tuple(_parse(o, type(o), json.dumps(v)) for o, v in zip(old, value, strict=True))
    if type(value) not in kinds:
        raise ConfigError(f"{text} is no {shown}, such as {old!r}")
    return value
