"""What of a folder an index does not know yet: files that are new or look changed, and files that are gone.

A file whose size and time are those that the index knows is taken for unchanged; any other is read, and its content
tells whether it only moved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from perception_encoder.errors import InputError, MediaNotFoundError
from perception_encoder.inference.listing import Item, TarMember, list_items
from perception_encoder.preprocess.source import escape_name, open_source
from perception_encoder.search.index.rows import FileState

_PIECE = 1 << 20
_LATEST = (1 << 63) - 1
"""Nanoseconds since 1970 that an index can hold: April 2262. Later times are this one, as far as it is concerned."""


@dataclass(frozen=True, kw_only=True)
class File:
    """A picture or video in a folder."""

    path: str
    """Below the folder, printable."""
    item: Item
    size: int
    modified: int

    def digest(self) -> str:
        """Identifies the content; raises an InputError where it cannot be read."""
        found = hashlib.blake2b(digest_size=16)
        opened = self.item.open()
        if isinstance(opened, bytes):
            found.update(opened)
        else:
            with open_source(opened, self.item.id) as (stream, _):
                while piece := stream.read(_PIECE):
                    found.update(piece)
        return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Changes:
    """How a folder differs from its index."""

    candidates: list[File]
    """New, or with another size or time than before."""
    gone: list[str]
    """Paths that the index knows and the folder lacks."""
    unchanged: int
    failures: list[InputError]
    """What could not be listed; nothing beneath it counts as gone."""


def find_changes(folder: Path, known: Mapping[str, FileState]) -> Changes:
    """Compare a folder with what an index knows."""
    candidates: dict[str, File] = {}  # of a tar's members of one name the last counts, as for tar itself
    failures: list[InputError] = []
    seen: set[str] = set()
    base = escape_name(folder.absolute()).rstrip("/") + "/"
    for item in list_items([folder.absolute()]):
        path = item.path.removeprefix(base)
        try:
            size, modified = _status(item)
        except InputError as error:
            failures.append(error)
            continue
        state = known.get(path)
        seen.add(path)
        candidates.pop(path, None)
        if state is None or (state.size, state.modified) != (size, modified):
            candidates[path] = File(path=path, item=item, size=size, modified=modified)
    hidden = tuple(f"{failure.source}/".removeprefix(base) for failure in failures)  # all, where it is the folder
    gone = [path for path in known if path not in seen and not f"{path}/".startswith(hidden)]
    found = list(candidates.values())
    return Changes(candidates=found, gone=gone, unchanged=len(seen) - len(found), failures=failures)


def _status(item: Item) -> tuple[int, int]:
    """Size in bytes and time of the last change, of a tar's member the tar's; raises the InputError of an item."""
    if item.problem is not None:
        raise item.problem
    path = item.source.tar if isinstance(item.source, TarMember) else item.source
    assert isinstance(path, Path)  # a folder holds neither texts nor URLs
    try:
        status = path.stat()
    except OSError as error:
        raise MediaNotFoundError(item.id, f"cannot be read: {error.strerror or error}") from None
    size = item.source.size if isinstance(item.source, TarMember) else status.st_size
    return size, min(max(status.st_mtime_ns, -_LATEST - 1), _LATEST)
