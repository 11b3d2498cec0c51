"""Hashes of weight files, cached in the user's cache directory, so that a file is hashed once and not in every run."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from perception_encoder.errors import OutputError
from perception_encoder.files import cache_directory, file_state, write_text

_SETTLED = 2_000_000_000
"""Nanoseconds since the last change after which a file's time tells its content: a later write has another time."""
_HASH = re.compile(r"[0-9a-f]{16}")


class CachedHash:
    """The hash of a weight file as it is now; path, size, time and inode identify its content."""

    def __init__(self, path: Path) -> None:
        path.stat()  # raises if there is no such file
        self._path, self._state = path, file_state(path)

    def get(self, compute: Callable[[], str]) -> str:
        """The cached hash, else `compute()`, which is then cached unless the file has changed meanwhile."""
        key = hashlib.blake2b(self._state.encode("utf-8", "surrogateescape"), digest_size=16)
        entry = cache_directory("weight-hashes") / key.hexdigest()
        with suppress(OSError, ValueError):
            cached = entry.read_text(encoding="ascii")
            if _HASH.fullmatch(cached):
                return cached
        value = compute()
        with suppress(OSError, OutputError):
            if file_state(self._path) == self._state and time.time_ns() - self._path.stat().st_mtime_ns > _SETTLED:
                write_text(entry, value)
        return value
