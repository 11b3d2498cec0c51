"""Read annotation files and check their fields' types; errors name the file, the entry and the field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from perception_encoder.errors import DataError, one_line
from perception_encoder.records import SHORT, parse_json


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file; DataError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None


def read_json(path: Path) -> Any:
    """Return a JSON file's content; DataError if it cannot be read."""
    try:
        return parse_json(path.read_text(encoding="utf-8-sig"), object)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {one_line(error)}") from error


def list_objects(entry: Mapping[str, Any], name: str, where: str | Path) -> list[dict[str, Any]]:
    """Return a field that is a list of objects; DataError, with the index of the first bad item, otherwise."""
    value = entry.get(name)
    if not isinstance(value, list):
        raise DataError(f"{where}: `{name}` is {quoted(value)}; it must be a list of objects")
    for index, item in enumerate(value):
        if not isinstance(item, dict):
            raise DataError(f"{where}: {name}[{index}] is {quoted(item)}; it must be an object")
    return value


def _checked(entry: Mapping[str, Any], name: str, where: str, is_allowed: Callable[[Any], object], allowed: str) -> Any:
    value = entry.get(name)
    if not is_allowed(value):
        raise DataError(f"{where}: `{name}` is {quoted(value)}; it must be {allowed}")
    return value


def text_field(entry: Mapping[str, Any], name: str, where: str) -> str:
    """Return a field that is a non-empty string; DataError otherwise."""
    return str(_checked(entry, name, where, lambda value: isinstance(value, str) and value, "a non-empty string"))


def id_field(entry: Mapping[str, Any], name: str, where: str) -> int | str:
    """Return a field that is an integer or a string, such as an id; DataError otherwise."""
    value: int | str = _checked(entry, name, where, lambda value: type(value) in (int, str), "an integer or a string")
    return value


def integer_field(entry: Mapping[str, Any], name: str, where: str, least: int = 0) -> int:
    """Return a field that is an integer of at least `least`; DataError otherwise."""
    return int(_checked(entry, name, where, lambda value: is_integer(value, least), f"an integer of at least {least}"))


def is_integer(value: Any, least: int = 0) -> TypeGuard[int]:
    """Return whether a value is an integer of at least `least`; booleans are not."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def text_list(value: Any, where: str) -> list[str]:
    """Return a value that is a list of strings; DataError otherwise."""
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise DataError(f"{where} is {quoted(value)}; it must be a list of strings")
    return value


def are_numbers(value: Any, least: float = -1e6, most: float = 1e6) -> bool:
    """Return whether a value is a list of numbers within bounds, by default those of pixel coordinates."""
    return isinstance(value, list) and set(map(type, value)) <= {int, float} and all(least <= n <= most for n in value)


def quoted(value: Any) -> str:
    """Return a short form of a value for an error."""
    return "missing or null" if value is None else SHORT.repr(value)
