"""Compare a directory with its index: new, changed and deleted files.

A file with the size and time that the index knows is unchanged; any other is read, and its digest shows whether it was
only moved.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

from perception_encoder.errors import InputError, MediaNotFoundError
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.listing import Item, list_items
from perception_encoder.preprocess.source import escape_name, open_source
from perception_encoder.search.index.rows import FileState

_LATEST = (1 << 63) - 1
"""Nanoseconds since 1970 that an index can hold: April 2262. It stores later times as this one."""


@dataclass(frozen=True, kw_only=True)
class File:
    """An image or video in a directory."""

    path: str
    """Relative to the directory, printable."""
    item: Item
    size: int
    modified: int

    def digest(self) -> str:
        """Hash the content; raises an InputError if it cannot be read."""
        content = self.item.open()
        if isinstance(content, bytes):
            return hashlib.blake2b(content, digest_size=16).hexdigest()
        with open_source(content, self.item.id) as (stream, _):
            file = cast(BufferedReader, stream)
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Changes:
    """The difference between a directory and its index."""

    candidates: list[File]
    """New, or with another size or time than before."""
    gone: list[str]
    """Paths in the index that no longer exist."""
    unchanged: int
    failures: list[InputError]
    """What could not be listed; no file below it counts as gone."""
    left_out: Counter[str]
    """Files that are neither images nor videos, by type: see `list_items`."""


def find_changes(root: Path, indexed: Mapping[str, FileState]) -> Changes:
    """Compare a directory with the files that its index knows."""
    candidates: dict[str, File] = {}  # of a tar's members of one name the last counts, as for tar itself
    failures: list[InputError] = []
    listed: set[str] = set()
    left_out: Counter[str] = Counter()
    base = escape_name(root.absolute()).rstrip("/") + "/"
    for item in list_items([root.absolute()], left_out):
        path = item.path.removeprefix(base)
        try:
            size, modified = _status(item)
        except InputError as error:
            failures.append(error)
            continue
        state = indexed.get(path)
        listed.add(path)
        candidates.pop(path, None)
        if state is None or (state.size, state.modified) != (size, modified):
            candidates[path] = File(path=path, item=item, size=size, modified=modified)
    hidden = tuple(f"{failure.source}/".removeprefix(base) for failure in failures)  # all, if it is the directory
    gone = [path for path in indexed if path not in listed and not f"{path}/".startswith(hidden)]
    unchanged = len(listed) - len(candidates)
    files = list(candidates.values())
    return Changes(candidates=files, gone=gone, unchanged=unchanged, failures=failures, left_out=left_out)


def _status(item: Item) -> tuple[int, int]:
    """Return the size in bytes and the time of the last change (a tar member's is the tar's), or raise InputError."""
    if item.problem is not None:
        raise item.problem
    path = item.source.tar if isinstance(item.source, TarMember) else item.source
    assert isinstance(path, Path)  # a directory holds neither texts nor URLs
    try:
        status = path.stat()
    except OSError as error:
        raise MediaNotFoundError(item.id, f"cannot be read: {error.strerror or error}") from None
    size = item.source.size if isinstance(item.source, TarMember) else status.st_size
    return size, min(max(status.st_mtime_ns, -_LATEST - 1), _LATEST)
