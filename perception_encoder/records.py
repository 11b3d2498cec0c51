"""Dataclasses from JSON with every type checked: a damaged file is an error that names the field."""

from __future__ import annotations

import dataclasses
import json
import math
import operator
import reprlib
import types
import typing
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from perception_encoder.errors import ConfigError

T = TypeVar("T")

SHORT = reprlib.Repr()
SHORT.maxstring = SHORT.maxother = 60
"""Shows a value of any size in an error."""


def from_fields(kind: type[T], value: object, path: str = "") -> T:
    """Build a dataclass, nested ones included, from JSON: the inverse of `dataclasses.asdict`.

    `path`: the value's own name, for errors.

    Raises ValueError, naming the field, if one is missing, unknown or of the wrong type, or if the class rejects it.
    Lists become tuples or arrays and integers floats, as the fields ask. Fields may be dataclasses, tuples, lists,
    mappings, literals and unions of these.
    """
    return typing.cast(T, _convert(kind, value, path))


def parse_json(content: str | bytes, kind: type[T], path: str = "") -> T:
    """Parse untrusted JSON and check its fields, as `from_fields` does.

    Raises ValueError if it is not JSON, nested too deep, or not a `kind`.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"{path or 'the content'} is nested too deep") from None
    return from_fields(kind, value, path)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Range:
    """The finite numbers that a field allows: `rate: Annotated[float, Range(above=0)]`."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        limits = zip(dataclasses.astuple(self), (operator.ge, operator.gt, operator.le, operator.lt), strict=True)
        return math.isfinite(value) and all(limit is None or compare(value, limit) for limit, compare in limits)

    def __str__(self) -> str:
        if self.at_least is not None and self.at_most is not None:
            return f"from {self.at_least} to {self.at_most}"
        limits = {name.replace("_", " "): limit for name, limit in dataclasses.asdict(self).items()}
        return " and ".join(f"{name} {limit}" for name, limit in limits.items() if limit is not None) or "finite"


Count = Annotated[int, Range(at_least=1)]
CountOrZero = Annotated[int, Range(at_least=0)]
Layer = Annotated[int, Range(at_least=-1000, at_most=999)]
"""0-based, negative from the end."""
Positive = Annotated[float, Range(above=0)]
Weight = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
ShareAboveZero = Annotated[float, Range(above=0, at_most=1)]
ShareBelowOne = Annotated[float, Range(at_least=0, below=1)]


class Checked:
    """Base class of dataclasses whose fields are checked against their annotations: type, choices (Literal), `Range`.

    The constructor raises ConfigError, naming the field, its value and what is allowed.
    """

    def __post_init__(self) -> None:
        config: Any = type(self)
        for name, kind in _annotations(config).items():
            try:
                _convert(kind, getattr(self, name), name)
            except ValueError as error:
                raise ConfigError(str(error)) from None


def check_ordered(config: object, name: str) -> None:
    """Raise ConfigError unless a pair of numbers has the smaller one first."""
    low, high = getattr(config, name)
    if low > high:
        raise ConfigError(f"{name} is {[low, high]}; the smaller one must be first")


@cache
def _annotations(kind: Any) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields that its constructor takes."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.init}


def _convert(kind: Any, value: Any, path: str) -> Any:
    if typing.get_origin(kind) is Annotated:
        return _in_range(kind.__metadata__, _convert(kind.__origin__, value, path), path)
    origin, arguments = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind in (Any, object):
        return value
    if origin in (types.UnionType, typing.Union):
        return _union(arguments, value, path)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path)
    if hasattr(kind, "array_type"):  # a one-dimensional array, annotated with jaxtyping
        import numpy as np  # slow, and not needed for a command's help

        return np.array(_convert(tuple[float, ...], value, path))
    if origin is tuple:
        return _tuple(arguments, value, path)
    if origin in (list, Sequence):
        return list(_tuple((arguments[0], ...), value, path))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(path, value, "an object")
        of = arguments[1] if arguments else Any
        return {name: _convert(of, item, _below(path, name)) for name, item in value.items()}
    return _scalar(kind, value, path)


def _in_range(metadata: Sequence[object], value: Any, path: str) -> Any:
    for allowed in metadata:
        if isinstance(allowed, Range) and value not in allowed:
            raise ValueError(f"{path} is {value}; it must be {allowed}")
    return value


def _scalar(kind: Any, value: Any, path: str) -> Any:
    if typing.get_origin(kind) is Literal:
        options = typing.get_args(kind)
        allowed = any(value == option and type(value) is type(option) for option in options)
        name = " or ".join(map(repr, options))
    elif kind is float:
        allowed, name = isinstance(value, float) or (type(value) is int and abs(value) <= 1e308), "a number"
    elif kind is int:
        allowed, name = type(value) is int and abs(value) < 1 << 63, "an integer"
    else:
        allowed = type(value) is kind
        name = {str: "a string", bool: "true or false", types.NoneType: "null"}.get(kind) or kind.__name__
    if not allowed:
        raise _wrong(path, value, name)
    return float(value) if kind is float else value


def _dataclass(kind: Any, value: Any, path: str) -> Any:
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise _wrong(path, value, "an object")
    hints = _annotations(kind)
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}
    for name in value:
        if name not in fields:
            raise ValueError(f"{_below(path, name)} is unknown; known: {', '.join(fields)}")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{_below(path, name)} is missing")
    values = {name: _convert(hints[name], item, _below(path, name)) for name, item in value.items()}
    try:
        return kind(**values)
    except ConfigError as error:
        raise ValueError(f"{path}: {error}" if path else str(error)) from None


def _union(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """Convert to the first type that fits; if none does, raise the first one's error."""
    errors = []
    for kind in kinds:
        try:
            return _convert(kind, value, path)
        except ValueError as error:
            errors.append(error)
    raise errors[0]


def _tuple(arguments: Sequence[Any], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(path, value, "a list")
    if not arguments:
        return tuple(value)
    if arguments[1:] == (...,):
        if arguments[0] is float and all(type(item) is float for item in value):  # many, such as corners of boxes
            return tuple(value)
        arguments = [arguments[0]] * len(value)
    if len(value) != len(arguments):
        raise _wrong(path, value, f"a list of {len(arguments)}")
    return tuple(
        _convert(kind, item, f"{path}[{n}]") for n, (kind, item) in enumerate(zip(arguments, value, strict=True))
    )


def _below(path: str, name: object) -> str:
    return f"{path}.{str(name)[:60]}" if path else str(name)[:60]


def _wrong(path: str, value: Any, allowed: str) -> ValueError:
    return ValueError(f"{path or 'the content'} is {SHORT.repr(value)}; expected {allowed}")
