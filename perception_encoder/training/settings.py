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
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

from perception_encoder.errors import ConfigError
from perception_encoder.records import from_fields, parse_json
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
    object replaces a whole mapping: 'streams.captions={"alt_text": 1}'; lists are JSON too, as [0.9,0.95], and lists of
    strings may be separated by commas. A warm-up that is left as it was, in a run that becomes shorter than it, is cut
    to a tenth of the run. Raises ConfigError for an unknown name (near matches shown), and for a value of another type
    or out of range.
    """
    before = config
    value: object
    for item in settings.items() if isinstance(settings, Mapping) else settings:
        if isinstance(item, str):
            (name, equals, text), shown = item.partition("="), f"--set {item}"
            if not equals:
                raise ConfigError(f"{shown}: write name=value")
            name, value = name.strip(), _Text(text.strip())
        else:
            (name, value), shown = item, f"{item[0]}={item[1]!r}"
        try:
            config = _change(config, name, value)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"{shown}: {error}") from None
    if isinstance(config, TrainingConfig) and config.steps < config.warmup == before.warmup:  # type: ignore[attr-defined]
        config = dataclasses.replace(config, warmup=config.steps // 10)
    return config


def _change(config: Any, name: str, value: object) -> Any:
    if name not in {field.name for field in dataclasses.fields(config)}:
        stages = getattr(config, "stages", ())
        if name == "lr":
            name = "optimizer.lr"
        elif name == "steps" and stages:
            return _with_steps(config, _read(int, name, value))
        elif name == "image_size" and len(stages) == 1:
            name = "stages.0.image_size"
    return _replace(type(config), config, name, value, name.split("."))


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


def _replace(kind: Any, old: Any, name: str, value: object, path: Sequence[str]) -> Any:
    """Return a value of a type with the one at `path` replaced; `name`: the setting, for errors."""
    kinds = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else (kind,)
    groups: list[Any] = [item for item in (type(old), *kinds) if dataclasses.is_dataclass(item)]
    if groups:
        return _replace_in_group(kinds, groups[0]() if old is None else old, name, value, path)
    if not path:
        return _read(kind, name, value)
    if isinstance(old, Mapping):
        _check(path[0], old)
        return {**old, path[0]: _replace(type(old[path[0]]), old[path[0]], name, value, path[1:])}
    if isinstance(old, tuple):
        _check(path[0], map(str, range(len(old))))
        at = int(path[0])
        return (*old[:at], _replace(type(old[at]), old[at], name, value, path[1:]), *old[at + 1 :])
    raise ConfigError(f"{path[0]} is not a setting: its parent is a plain value")


def _replace_in_group(kinds: Sequence[Any], group: Any, name: str, value: object, path: Sequence[str]) -> Any:
    """Return settings with one changed or, without a path, with a mapping's changes, the first one changed, or off."""
    fields = [field.name for field in dataclasses.fields(group)]
    if path:
        _check(path[0], fields)
        hint = typing.get_type_hints(type(group), include_extras=True)[path[0]]
        changed = _replace(hint, getattr(group, path[0]), name, value, path[1:])
        return dataclasses.replace(group, **{path[0]: changed})
    if type(value) in kinds:
        return value
    if value == _Text("null") and types.NoneType in kinds:
        return None
    if isinstance(value, _Text) and value.startswith("{"):
        value = from_fields(dict[str, Any], (_json(value) or [value])[0], name)
    if isinstance(value, Mapping):
        return override(group, value)
    return _replace_in_group(kinds, group, name, value, fields[:1])


def _check(name: str, names: Iterable[str]) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(names)}"
        raise ConfigError(f"no setting is called {name}; {hint}")


def _read(kind: Any, name: str, value: object) -> Any:
    """Return a value as a type: a text is JSON, or a string or strings separated by commas, which need no quotes."""
    readings = [os.fspath(value) if isinstance(value, os.PathLike) else value]
    if isinstance(value, _Text):
        readings = [*_json(value), str(value)]
        readings += [] if value.startswith("[") else [[part.strip() for part in value.split(",") if part.strip()]]
    errors = []
    for reading in readings:
        try:
            return from_fields(kind, reading, name)
        except ValueError as error:
            errors.append(error)
    hint = "; write a list as [0.9,0.95]" if "expected a list" in str(errors[0]) else ""
    raise ValueError(f"{errors[0]}{hint}")


def _json(text: str) -> list[Any]:
    try:
        return [parse_json(text, object)]
    except ValueError:
        return []


class Setting(NamedTuple):
    """A setting of a configuration."""

    name: str
    value: str  # as `--set` takes it; empty for a group, whose settings follow
    meaning: str


def describe_settings(config: TrainingConfig) -> list[Setting]:
    """Return all settings of a configuration, starting with those that every recipe has."""
    names, first = {field.name for field in dataclasses.fields(config)}, []
    stages: Sequence[Any] = getattr(config, "stages", ())
    if "lr" not in names:
        first.append(Setting("lr", _text(config.optimizer.lr), "Peak learning rate, as optimizer.lr."))
    if "steps" not in names:
        meaning = "Optimizer steps of the whole run; its stages share them in proportion."
        first.append(Setting("steps", _text(config.steps), meaning))
    if len(stages) == 1:
        meaning = "Side of the training images in pixels, as stages.0.image_size; 0 for the size of the model."
        first.append(Setting("image_size", _text(stages[0].image_size), meaning))
    return [*first, *_settings(config, "")]


def _settings(config: Any, prefix: str) -> Iterator[Setting]:
    hints, meanings = typing.get_type_hints(type(config)), field_meanings(type(config))  # type: ignore[arg-type]
    for field in dataclasses.fields(config):
        name, value, meaning = f"{prefix}{field.name}", getattr(config, field.name), meanings.get(field.name, "")
        groups: list[Any] = [kind for kind in typing.get_args(hints[field.name]) if dataclasses.is_dataclass(kind)]
        if dataclasses.is_dataclass(value):
            yield Setting(name, "", meaning or _summary(type(value)))
            yield from _settings(value, f"{name}.")
        elif value is None and groups:
            yield Setting(name, "null", f"{meaning or _summary(groups[0])} Off; any of these turns it on:")
            yield from _settings(groups[0](), f"{name}.")
        elif isinstance(value, tuple) and value and groups:
            yield Setting(name, "", meaning)
            for number, item in enumerate(value):
                yield from _settings(item, f"{name}.{number}.")
        else:
            yield Setting(name, _text(value), meaning)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}"
    value = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))  # without spaces, at which shells split


def _summary(kind: Any) -> str:
    return (inspect.getdoc(kind) or "").partition("\n\n")[0].replace("\n", " ")


@cache
def field_meanings(kind: type[Any]) -> dict[str, str]:
    """Return the strings beneath a dataclass's fields, including inherited fields."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if dataclasses.is_dataclass(base):
            definition: Any = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
            for line, below in pairwise(definition.body):
                match line, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        meanings[name] = " ".join(text.split())
    return meanings
