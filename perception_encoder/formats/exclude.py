"""Exclude files of directories, by patterns and by `.peignore` files, in gitignore's syntax (read by pathspec)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.errors import ConfigError, MediaDecodeError, OutputError, one_line
from perception_encoder.files import read_regular
from perception_encoder.preprocess.source import escape_name, unescape_name

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

IGNORE = ".peignore"
"""Name of a file of patterns, which apply to its directory and those below."""
_LONGEST = 1000  # characters of a pattern
_STAR, _LEVELS, _FIRST_LEVELS = "[^/]*", "(?:/.+)?", "^(?:.+/)?"  # how pathspec translates *, /** and a leading **/


@dataclass(frozen=True)
class Exclusion:
    """The rules of a directory. The first that matches a file decides."""

    rules: tuple[tuple[Path, GitIgnoreSpec], ...] = ()
    """The caller's patterns, with the directory they are relative to."""
    found: tuple[tuple[Path, GitIgnoreSpec], ...] = ()
    """Those of `.peignore` files, the innermost first."""

    def enter(self, directory: Path) -> Exclusion:
        """Return the rules in a directory, with its `.peignore`; MediaDecodeError if that is unusable."""
        try:
            content = read_regular(directory / IGNORE, follow=True)
            lines = content.decode("utf-8-sig", "surrogateescape").splitlines()
            return replace(self, found=((directory, parse_patterns(lines)), *self.found))
        except FileNotFoundError:
            return self
        except (OSError, ConfigError, OutputError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise MediaDecodeError(escape_name(directory), f"cannot be listed: its {IGNORE}: {reason}") from None

    def covers(self, path: Path, is_directory: bool = False) -> bool:
        """Return whether a path is excluded; of a directory that is, nothing is listed."""
        for directory, patterns in (*self.rules, *self.found):
            name = Path(os.path.relpath(path, directory)).as_posix() + ("/" if is_directory else "")
            if (excluded := _excludes(patterns, name)) is not None:
                return excluded
        return False


def exclude(patterns: Sequence[str], root: Path) -> Exclusion:
    """Return the exclusion by patterns relative to a directory; ConfigError for an invalid one."""
    return Exclusion(((root, parse_patterns(patterns)),) if patterns else ())


def excluded_names(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Return a function that tells whether patterns exclude a printable path, relative to their directory."""
    if not patterns:
        return lambda name: False
    spec = parse_patterns(patterns)
    return lambda name: bool(_excludes(spec, unescape_name(name)))


def _excludes(patterns: GitIgnoreSpec, name: str) -> bool | None:
    """Return whether patterns exclude a path, or know it; as in git, no file of an excluded directory is included."""
    directories = (name[: at + 1] for at, letter in enumerate(name[:-1]) if letter == "/")
    if any(patterns.check_file(directory).include for directory in directories):
        return True
    return patterns.check_file(name).include


def parse_patterns(lines: Iterable[str]) -> GitIgnoreSpec:
    """Compile patterns; the last one that matches a file decides. Raises ConfigError for an invalid or too long one."""
    from pathspec import GitIgnoreSpec  # here: few directories need it

    if isinstance(lines, str):  # a sequence of its characters
        raise ConfigError(f"exclude is {lines!r}; it must be a list of patterns: [{lines!r}]")
    lines = list(lines)
    for line in lines:
        if len(line) > _LONGEST:
            raise ConfigError(f"a pattern has {len(line):,} characters, at most {_LONGEST:,} are allowed: {line[:60]}…")
    try:
        spec = GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        raise ConfigError(f"a pattern is invalid: {one_line(error)}") from None
    for pattern in spec.patterns:
        if pattern.regex is not None:
            pattern.regex = re.compile(_linear(pattern.regex.pattern))
    return spec


def _linear(regex: str) -> str:
    """Return a regular expression of pathspec in which each * and ** of a pattern but the last keeps its first match.

    What follows up to the next one has a fixed length, so the first match is the best; names that almost match would
    otherwise take years.
    """
    first, *rest = regex.split(_STAR)
    inner = ["/" not in part.replace("[^/]", "") for part in rest[:-1]] + [False] * bool(rest)
    parts = [f"(?>[^/]*?{part})" if same else _STAR + part for part, same in zip(rest, inner, strict=True)]
    first, *levels = "".join([first, *parts]).split(_LEVELS)
    if levels and first.startswith(_FIRST_LEVELS):
        first = f"^(?>(?:.+?/)??{first.removeprefix(_FIRST_LEVELS)}(?=/|$))"
    kept = [f"(?>(?:/.+?)??{part}(?=/|$))" for part in levels[:-1]]
    return first + "".join(kept) + "".join(_LEVELS + part for part in levels[-1:])
