"""Dataclasses out of JSON, with every type checked: a damaged file is an error that names the field."""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from perception_encoder.errors import ConfigError

T = TypeVar("T")

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 60


def from_fields(kind: type[T], value: object) -> T:
    """Make a dataclass, and those inside it, of what `json.loads` gave for `dataclasses.asdict` of one.

    Raises ValueError, which names the field, if one is missing, unknown or of another type, or if the class refuses it.
    Lists become tuples or arrays where a field is one, and integers numbers. Fields may be dataclasses, tuples, lists,
    mappings, literals and unions of these.
    """
    return typing.cast(T, _convert(kind, value, ""))


def _convert(kind: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or kind is object:
        return value
    if origin in (types.UnionType, typing.Union):
        return _first(arguments, value, where)
    if origin is Literal:
        if any(value == each and type(value) is type(each) for each in arguments):
            return value
        raise _wrong(where, value, " or ".join(map(repr, arguments)))
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _make(kind, value, where)
    if kind is float:
        if isinstance(value, float) or (type(value) is int and abs(value) <= 1e308):
            return float(value)
        raise _wrong(where, value, "a number")
    if kind is int:
        if type(value) is int and abs(value) < 1 << 63:
            return value
        raise _wrong(where, value, "an integer")
    if getattr(kind, "array_type", None) is np.ndarray:  # as jaxtyping has it; of one dimension
        return np.array(_convert(tuple[float, ...], value, where))
    if (origin or kind) is tuple:
        return _tuple(arguments, value, where)
    if (origin or kind) in (list, Sequence):
        return [_convert(arguments[0], each, f"{where}[{n}]") for n, each in enumerate(_list(value, where))]
    if (origin or kind) in (dict, Mapping):
        if not isinstance(value, dict):
            raise _wrong(where, value, "an object")
        of = arguments[1] if arguments else Any
        return {name: _convert(of, each, _below(where, name)) for name, each in value.items()}
    if type(value) is not kind:
        allowed = {str: "a text", bool: "true or false", types.NoneType: "null"}.get(kind)
        raise _wrong(where, value, allowed or kind.__name__)
    return value


def _make(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _wrong(where, value, "an object")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in value:
        if name not in fields:
            raise ValueError(f"{_below(where, name)} is unknown; known: {', '.join(fields)}")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_below(where, name)} is missing")
    values = {name: _convert(hints[name], each, _below(where, name)) for name, each in value.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def _first(kinds: Sequence[Any], value: Any, where: str) -> Any:
    """The value as the first of some types that it fits; the first one's error if it fits none."""
    errors = []
    for kind in kinds:
        try:
            return _convert(kind, value, where)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _tuple(arguments: Sequence[Any], value: Any, where: str) -> tuple[Any, ...]:
    values = _list(value, where)
    if arguments[1:] == (...,):
        arguments = [arguments[0]] * len(values)
    elif not arguments:
        return tuple(values)
    if len(values) != len(arguments):
        raise _wrong(where, value, f"a list of {len(arguments)}")
    return tuple(
        _convert(kind, each, f"{where}[{n}]") for n, (kind, each) in enumerate(zip(arguments, values, strict=True))
    )


def _list(value: Any, where: str) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, value, "a list")
    return value


def _below(where: str, name: object) -> str:
    text = str(name)[:60]
    return f"{where}.{text}" if where else text


def _wrong(where: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{where or 'its content'} is {_REPR.repr(value)}; it must be {allowed}")
