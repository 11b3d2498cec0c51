"""List the settings of a recipe: each by the name that `--set` takes, with its value and what it means."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import textwrap
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from perception_encoder.training.config import TrainingConfig


@dataclass(frozen=True)
class Setting:
    """A setting of a configuration."""

    name: str
    """As `--set` takes it."""
    value: str
    """As `--set` takes it; empty for a group, whose settings follow."""
    meaning: str


def describe_settings(config: TrainingConfig) -> list[Setting]:
    """Return all settings of a configuration, the rate and the steps of the whole run first."""
    names = {field.name for field in dataclasses.fields(config)}
    first = []
    if "lr" not in names:
        first.append(Setting("lr", _text(config.optimizer.lr), "Peak learning rate, as optimizer.lr."))
    if "steps" not in names:
        shared = "Optimizer steps of the whole run; the stages share them as they do now."
        first.append(Setting("steps", _text(config.steps), shared))
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
            for number, each in enumerate(value):
                yield from _settings(each, f"{name}.{number}.")
        else:
            yield Setting(name, _text(value), meaning)


def _inner(hint: Any) -> type[Any] | None:
    """Return the class of settings that a type allows besides None, if it can be made without any."""
    classes = [each for each in typing.get_args(hint) if isinstance(each, type) and dataclasses.is_dataclass(each)]
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
    """Return the texts beneath the fields of a dataclass, those of the classes that it derives from too."""
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
