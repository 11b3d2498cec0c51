"""List the images, videos and texts that paths hold, lazily and in a fixed order."""

from __future__ import annotations

import glob
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.errors import DataError, InputError, MediaDecodeError, MediaNotFoundError, one_line
from perception_encoder.formats.exclude import Exclusion, exclude
from perception_encoder.formats.tars import TarMember, walk_tar
from perception_encoder.preprocess.fetch import FetchLimits, fetch, is_url
from perception_encoder.preprocess.media import Media, resolve, split_range
from perception_encoder.preprocess.raw import reads_raw
from perception_encoder.preprocess.source import (
    MEDIA_SUFFIXES,
    RAW_SUFFIXES,
    TABLE_SUFFIXES,
    escape_name,
    is_transport_stream,
)

if TYPE_CHECKING:
    from perception_encoder.formats.tables import Row

COPIES = frozenset({"@eaDir", "@__thumb", "__MACOSX"})
"""Directories that are not listed: thumbnails of Synology's and QNAP's systems, and what macOS adds to archives."""


@dataclass(frozen=True)
class Item:
    """One image, video or text."""

    id: str
    """Printable name of the item: its path, or the value of a table's `id` column."""
    path: str
    """Printable path of the file (`TAR/MEMBER` in a tar, a text's table); `unescape_name` restores it."""
    source: Path | TarMember | str | None = None
    """Location of the bytes; a string is a URL. None for a text, or if there is a problem."""
    start: float | None = None
    """The part of a video to use, in seconds."""
    end: float | None = None
    text: str | None = None
    """The text itself, or a table's text about the file."""
    problem: InputError | None = None
    """Why the item could not be listed."""

    @property
    def name(self) -> str:
        """Name in messages: the id, with the path if a table's id does not contain it."""
        return self.id if self.path in self.id or self.source is None else f"{self.id} ({self.path})"

    def stat(self) -> tuple[int, os.stat_result]:
        """Return the size in bytes and the status of the file that holds it (of a tar's member, the tar's)."""
        if self.problem is not None:
            raise self.problem
        member = self.source if isinstance(self.source, TarMember) else None
        file = member.tar if member else self.source
        assert isinstance(file, Path)  # not a text nor a URL
        try:
            status = file.stat()
        except OSError as error:
            raise MediaNotFoundError(self.id, f"cannot be read: {error.strerror or error}") from None
        return member.size if member else status.st_size, status

    def open(self, limits: FetchLimits | None = None) -> Path | bytes:
        """Return the file to read, or its bytes; raises InputError for a text or a problem."""
        if self.problem is not None:
            raise self.problem
        if isinstance(self.source, Path):
            return self.source
        if isinstance(self.source, TarMember):
            return self.source.read(self.name)
        if isinstance(self.source, str):
            return fetch(self.source, limits)
        raise InputError(self.id, "is a text, not a file")

    def media(self, limits: FetchLimits | None = None) -> Media:
        """The item as media, ready to be opened."""
        if self.problem is None and self.source is None and self.text is not None:
            return Media("text", self.id, self.text)
        return resolve(self.open(limits), self.name, start=self.start, end=self.end)


def list_items(
    paths: Iterable[str | Path], left_out: Counter[str] | None = None, excluded: Sequence[str] = ()
) -> Iterator[Item]:
    """Yield the items that paths hold, in order; `left_out` counts other files by suffix.

    `excluded`: patterns in gitignore's syntax, relative to each directory, and to the directory that a glob begins
    with. In and below a directory, `.peignore` files exclude more. ConfigError for an invalid pattern.

    A file is one item, whatever its suffix. A directory gives the images, videos and plain tars in and below it, sorted
    by name, then those of linked directories that it does not hold itself. Not listed are hidden ones, directories of
    thumbnails (`COPIES`), and RAW photographs unless the extra `raw` is installed. A glob gives what it matches. A
    table (CSV, TSV, Parquet, JSONL) gives its rows: a path column (relative paths are looked up beside the table
    first), and `start`, `end`, `text` and `id` if it has them. A tar gives its images and videos, read in place.
    Errors, such as an unreadable path or a table without a column of paths or texts, are items that raise when they are
    opened, so that they are reported like any other bad file.
    """
    for path in paths:
        if isinstance(path, str) and is_url(path):
            yield Item(escape_name(path), escape_name(path), path)
        elif glob.has_magic(os.fspath(path)) and not os.path.lexists(split_range(Path(path))[0]):
            yield from _list_glob(os.fspath(path), left_out, excluded)
        else:
            yield from _list_path(Path(path), left_out, excluded)


def is_listed_type(name: str) -> bool:
    """Return whether a file in a directory counts as media; RAW photographs only if they can be read."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix in MEDIA_SUFFIXES and (suffix not in RAW_SUFFIXES or reads_raw())


def check_paths(paths: Iterable[str | Path]) -> None:
    """Raise MediaNotFoundError for the first missing path or glob without a match; URLs are not checked."""
    for path in paths:
        if isinstance(path, str) and is_url(path):
            continue
        if os.path.exists(split_range(Path(path))[0]):
            continue
        if not glob.has_magic(os.fspath(path)):
            raise MediaNotFoundError(escape_name(path), "no such file or directory")
        if not any(_match(os.fspath(path))):
            raise MediaNotFoundError(escape_name(path), "matches no file")


def _list_path(
    path: Path, left_out: Counter[str] | None, excluded: Sequence[str], base: Path | None = None
) -> Iterator[Item]:
    name, is_file = path.name.lower(), os.path.isfile(path)
    if os.path.isdir(path):
        yield from _list_directory(path, left_out, exclude(excluded, base or path))
    elif is_file and name.endswith(".tar"):
        yield from _list_tar(path, exclude(excluded, base or path))
    elif is_file and path.suffix.lower() in TABLE_SUFFIXES:
        yield from _list_table(path)
    else:
        whole, start, end = split_range(path)
        yield Item(escape_name(path), escape_name(whole), whole, start, end)


def _problem(path: Path, reason: str) -> Item:
    name = escape_name(path)
    return Item(name, name, problem=MediaDecodeError(name, reason))


def _list_glob(pattern: str, left_out: Counter[str] | None, excluded: Sequence[str]) -> Iterator[Item]:
    base, _ = _split_glob(pattern)
    rules = exclude(excluded, base)
    matches = sorted(_match(pattern), key=os.fsencode)
    if not matches:
        name = escape_name(pattern)
        yield Item(name, name, problem=MediaNotFoundError(name, "matches no file"))
    for match in matches:
        is_directory = match.is_dir()
        if rules.covers(match, is_directory) or ("**" in pattern and is_directory):  # its contents match as well
            continue
        yield from _list_path(match, left_out, excluded, base)


def _match(pattern: str) -> Iterator[Path]:
    """Yield a glob's matches without hidden ones; `**` does not follow links, which may form cycles."""
    base, parts = _split_glob(pattern)
    for path in base.glob(os.path.join(*parts, *(["*"] if parts[-1] == "**" else []))):
        if not any(map(_is_hidden, path.relative_to(base).parts)):
            yield path


def _split_glob(pattern: str) -> tuple[Path, tuple[str, ...]]:
    """Return the directory that a glob begins with, and the other parts."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:fixed]), parts[fixed:]


def _list_directory(directory: Path, left_out: Counter[str] | None, outer: Exclusion) -> Iterator[Item]:
    """List real directories first: links neither take over the files of a directory nor bring back excluded ones."""
    visited: set[tuple[int, int]] = set()  # each real directory is listed once, so links may run in circles
    excluded: set[Path] = set()  # real directories
    waiting = deque([(directory, outer)])  # then the links to directories
    while waiting:
        top, rules = waiting.popleft()
        real = Path(os.path.realpath(top))
        if not excluded.isdisjoint([real, *real.parents]):
            continue
        open_directories = [_enter(top, rules, visited)]
        while open_directories:
            entries, rules = open_directories[-1]
            entry = next(entries, None)
            if entry is None:
                open_directories.pop()
                continue
            if isinstance(entry, Item):
                yield entry
                continue
            path, is_link = Path(entry), entry.is_symlink()
            if not (os.path.isdir(path) if is_link else entry.is_dir()):
                yield from () if rules.covers(path) else _list_file(path, left_out, rules)
            elif is_link:
                waiting += [] if rules.covers(path, True) else [(path, rules)]
            elif rules.covers(path, True):
                excluded.add(Path(os.path.realpath(path)))
            else:
                open_directories.append(_enter(path, rules, visited))


def _enter(
    directory: Path, rules: Exclusion, visited: set[tuple[int, int]]
) -> tuple[Iterator[os.DirEntry[str] | Item], Exclusion]:
    """List a directory, or its problem, with the rules there; nothing if it was visited before."""
    try:
        status, inner = directory.stat(), rules.enter(directory)
        with os.scandir(directory) as found:
            entries = [entry for entry in found if not _is_hidden(entry.name)]
    except InputError as error:
        return iter([Item(error.source, error.source, problem=error)]), rules
    except OSError as error:
        return iter([_problem(directory, f"cannot be listed: {error.strerror or one_line(error)}")]), rules
    if (status.st_dev, status.st_ino) in visited:
        return iter(()), rules
    visited.add((status.st_dev, status.st_ino))
    return iter(sorted(entries, key=lambda entry: os.fsencode(entry.name))), inner


def _list_file(path: Path, left_out: Counter[str] | None, rules: Exclusion) -> Iterator[Item]:
    if path.name.lower().endswith(".tar") and path.is_file():
        yield from _list_tar(path, rules)
    elif is_listed_type(path.name) and not _is_typescript(path):
        name = escape_name(path)
        yield Item(name, name, path)
    elif left_out is not None and os.path.isfile(path):
        left_out[path.suffix.lower()] += 1


def _is_typescript(path: Path) -> bool:
    if path.suffix.lower() != ".ts" or not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            return not is_transport_stream(stream.read(189))
    except OSError:
        return False  # reported when it is opened


def _is_hidden(name: str) -> bool:
    """Return whether a file or directory is not listed: a hidden one, or one in which a NAS or a Mac puts copies."""
    return name.startswith(".") or name in COPIES


def _list_tar(path: Path, rules: Exclusion) -> Iterator[Item]:
    try:
        with path.open("rb") as stream:
            for entry in walk_tar(stream, os.fstat(stream.fileno()).st_size):
                inside = Path(entry.name)
                hidden = inside.name.startswith(".") or not COPIES.isdisjoint(inside.parts)
                if hidden or not is_listed_type(inside.name) or rules.covers(path / inside):
                    continue
                if inside.suffix.lower() == ".ts":
                    stream.seek(entry.offset)
                    if not is_transport_stream(stream.read(189)):
                        continue
                name = f"{escape_name(path)}/{escape_name(entry.name)}"
                problem = MediaDecodeError(name, entry.problem) if entry.problem else None
                yield Item(name, name, TarMember(path, entry.offset, entry.size), problem=problem)
    except (DataError, OSError) as error:
        yield _problem(path, f"cannot be read as a tar: {one_line(error)}")


def _list_table(path: Path) -> Iterator[Item]:
    from perception_encoder.formats.tables import read_rows

    table = escape_name(path)
    for number, row in enumerate(read_rows(path), 1):
        if isinstance(row, InputError):
            yield Item(row.source, table, problem=row)
        elif row.path is None:
            yield Item(row.id or f"{table}:{number}", table, text=row.text)
        else:
            yield _item_of_row(row, row.path, path.parent)


def _item_of_row(row: Row, path: str, directory: Path) -> Item:
    source: Path | str
    start, end = row.start, row.end
    if is_url(path):
        source = path
    else:
        beside, *part = split_range(directory / path)
        source = beside if os.path.exists(beside) or not os.path.exists(path) else Path(path)
        if start is None and end is None:
            start, end = part
    name = escape_name(source)
    span = "" if start is None and end is None else f"@{start or 0:g}s" + ("" if end is None else f"-{end:g}s")
    return Item(row.id or name + span, name, source, start, end, row.text)
