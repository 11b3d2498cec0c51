"""Change the settings of a recipe with `--set` or from Python, and list them with their meaning."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import os
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

from perception_encoder.errors import ConfigError
from perception_encoder.training.config import TrainingConfig

Config = TypeVar("Config")


class _Text(str):
    """A value typed on the command line, with the type of its setting."""


def override(config: Config, settings: Sequence[str] | Mapping[str, object]) -> Config:
    """Return a copy of a (frozen, nested) dataclass with settings changed: NAME=VALUE texts, or values by name.

    A name leads into dataclasses by field, into tuples by number (from 0) and into mappings by key:
    "optimizer.lr=1e-3", "stages.0.steps=100", "weights.flowers=0.2". A plain value for a group is its first setting:
    "lora=16" is "lora.rank=16". Any setting of a group turns it on; `null` turns it off. "lr", "steps" and "image_size"
    are found wherever a recipe has them; a run in several stages shares its steps out as before. In texts, a JSON
    object replaces a whole mapping: 'streams.captions={"alt_text": 1}'; lists of strings are JSON too, or separated by
    commas. Raises ConfigError for an unknown name (near matches shown), and for a value of another type or out of
    range.
    """
    for shown, name, value in _changes(settings):
        try:
            config = _change(config, name, value)
        except ConfigError as error:
            raise ConfigError(f"{shown}: {error}") from None
    return config


def _changes(settings: Sequence[str] | Mapping[str, object]) -> Iterator[tuple[str, str, object]]:
    """Yield each given setting with its name and value."""
    if isinstance(settings, Mapping):
        yield from ((f"{name}={value!r}", name, value) for name, value in settings.items())
        return
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write name=value")
        yield f"--set {setting}", name.strip(), _Text(text.strip())


def _change(config: Any, name: str, value: object) -> Any:
    if name not in {field.name for field in dataclasses.fields(config)}:
        stages = getattr(config, "stages", ())
        if name == "lr":
            name = "optimizer.lr"
        elif name == "steps" and stages:
            return _with_steps(config, _read(0, (int,), value))
        elif name == "image_size" and len(stages) == 1:
            name = "stages.0.image_size"
    return _replace(config, (type(config),), name.split("."), value)


def _with_steps(config: Any, steps: int) -> Any:
    """Return a staged run with a new total number of steps, divided as before."""
    stages, whole = config.stages, sum(stage.steps for stage in config.stages)
    if steps < len(stages):
        raise ConfigError(f"steps is {steps}; the run has {len(stages)} stages of at least one step each")
    ends = [0]
    for number, stage in enumerate(stages, 1):
        wanted = ends[-1] + max(1, round(steps * stage.steps / whole))
        ends.append(min(wanted, steps - (len(stages) - number)) if number < len(stages) else steps)
    shares = [end - start for start, end in pairwise(ends)]
    changed = (dataclasses.replace(stage, steps=share) for stage, share in zip(stages, shares, strict=True))
    return dataclasses.replace(config, stages=tuple(changed))


def _replace(old: Any, kinds: Sequence[Any], path: Sequence[str], value: object) -> Any:
    """Return `old`, of one of the types `kinds`, with the value at `path` replaced."""
    groups = [kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    if not path:
        return _read_group(old, kinds, groups, value) if groups else _read(old, kinds, value)
    name, rest = path[0], path[1:]
    if old is None and groups:
        old = groups[0]()
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        hint = typing.get_type_hints(type(old)).get(name)
        _check(name, [field.name for field in dataclasses.fields(old)])
        return dataclasses.replace(old, **{name: _replace(getattr(old, name), _kinds(hint), rest, value)})
    if isinstance(old, Mapping):
        _check(name, old)
        return {**old, name: _replace(old[name], (type(old[name]),), rest, value)}
    if isinstance(old, tuple):
        _check(name, map(str, range(len(old))))
        at = int(name)
        return (*old[:at], _replace(old[at], (type(old[at]),), rest, value), *old[at + 1 :])
    raise ConfigError(f"{name} is not a setting: its parent is a plain value")


def _check(name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"no setting is called {name}; {hint}")


def _kinds(hint: Any) -> Sequence[Any]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _read_group(old: Any, kinds: Sequence[Any], groups: Sequence[type[Any]], value: object) -> Any:
    """Return a group of settings: as it is, off, with a mapping's changes, or with its first setting changed."""
    if types.NoneType in kinds and (value is None or value == _Text("null")):
        return None
    if type(value) in groups:
        return value
    group = groups[0]() if old is None else old
    if isinstance(value, _Text) and value.startswith("{"):
        value = _json(value, kinds)
    if isinstance(value, Mapping):
        return override(group, value)
    return _replace(group, (type(group),), [dataclasses.fields(group)[0].name], value)


def _read(old: Any, kinds: Sequence[Any], value: object) -> Any:
    """Parse a value as one of some types: numbers, strings, true/false, null, or JSON lists or objects.

    Typed strings may lack quotes. `old`: the present value, if there is one.
    """
    if isinstance(value, os.PathLike) and str in kinds:
        return os.fspath(value)
    if not isinstance(value, _Text):
        return _convert(old, kinds, value)
    if value == "null" and types.NoneType in kinds:
        return None
    if str in kinds:
        return str(value)
    if tuple[str, ...] in kinds and not value.startswith("["):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return _convert(old, kinds, _json(value, kinds))


def _json(text: str, kinds: Sequence[Any]) -> object:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        raise ConfigError(f"{str(text)!r} is not of type {_type_name(kinds)}") from None


def _convert(old: Any, kinds: Sequence[Any], value: Any) -> Any:
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(old, Mapping) and isinstance(value, Mapping):
        item_kinds = (typing.get_args(kinds[0])[1],)
        return {name: _convert(None, item_kinds, item) for name, item in value.items()}
    item_kinds = tuple(typing.get_args(kind)[0] for kind in kinds if typing.get_args(kind)[1:] == (...,))
    if item_kinds and isinstance(value, list | tuple):
        return tuple(_convert(None, item_kinds[:1], item) for item in value)
    if isinstance(old, tuple) and isinstance(value, list | tuple) and len(value) == len(old):
        return tuple(_convert(item, (type(item),), new) for item, new in zip(old, value, strict=True))
    if type(value) not in kinds:
        example = "" if old is None else f", such as {old!r}"
        raise ConfigError(f"{json.dumps(value, default=repr)} is not of type {_type_name(kinds)}{example}")
    return value


def _type_name(kinds: Sequence[Any]) -> str:
    return " or ".join(kind.__name__ if isinstance(kind, type) else str(kind) for kind in kinds)


@dataclass(frozen=True)
class Setting:
    """A setting of a configuration."""

    name: str
    """As `--set` takes it."""
    value: str
    """As `--set` takes it; empty for a group, whose settings follow."""
    meaning: str


def describe_settings(config: TrainingConfig) -> list[Setting]:
    """Return all settings of a configuration, starting with the rate and the steps of the whole run."""
    names = {field.name for field in dataclasses.fields(config)}
    first = []
    if "lr" not in names:
        first.append(Setting("lr", _text(config.optimizer.lr), "Peak learning rate, as optimizer.lr."))
    if "steps" not in names:
        meaning = "Optimizer steps of the whole run; its stages share them in proportion."
        first.append(Setting("steps", _text(config.steps), meaning))
    stages: Sequence[Any] = getattr(config, "stages", ())
    if len(stages) == 1:
        first.append(
            Setting(
                "image_size",
                _text(stages[0].image_size),
                "Side of the training images in pixels, as stages.0.image_size; 0 for the size of the model.",
            )
        )
    return [*first, *_settings(config, "")]


def _settings(config: Any, prefix: str) -> Iterator[Setting]:
    hints = typing.get_type_hints(type(config))
    meanings = field_meanings(type(config))  # type: ignore[arg-type]  # a class is hashable
    for field in dataclasses.fields(config):
        name, value, meaning = f"{prefix}{field.name}", getattr(config, field.name), meanings.get(field.name, "")
        inner = _inner(hints[field.name])
        if dataclasses.is_dataclass(value):
            yield Setting(name, "", meaning or _summary(type(value)))
            yield from _settings(value, f"{name}.")
        elif value is None and inner is not None:
            yield Setting(name, "null", f"{meaning or _summary(inner)} Off; any of these turns it on:")
            yield from _settings(inner(), f"{name}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            yield Setting(name, "", meaning)
            for number, item in enumerate(value):
                yield from _settings(item, f"{name}.{number}.")
        else:
            yield Setting(name, _text(value), meaning)


def _inner(hint: Any) -> type[Any] | None:
    """Return a type's settings class besides None, if it has defaults for everything."""
    classes = [kind for kind in typing.get_args(hint) if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    return classes[0] if classes and typing.get_origin(hint) is not tuple else None


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(dict(value) if isinstance(value, Mapping) else value, ensure_ascii=False)


def _summary(kind: type[Any]) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


@cache
def field_meanings(kind: type[Any]) -> dict[str, str]:
    """Return the strings beneath a dataclass's fields, including inherited fields."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        (definition,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        body = typing.cast(ast.ClassDef, definition).body
        for line, below in pairwise(body):
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and isinstance(below, ast.Expr):
                text = getattr(below.value, "value", None)
                if isinstance(text, str):
                    meanings[line.target.id] = " ".join(text.split())
    return meanings
