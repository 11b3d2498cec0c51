"""The seal of an index: what its files were when the last update ended, and a copy of its settings.

A search of sealed files checks what it returns and, once a day, everything. The copy names the model and the directory
when the database cannot be read, and shows damage to the original.
"""

from __future__ import annotations

import json
import shlex
import sqlite3
import time
import zlib
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from perception_encoder.errors import OutputError, SearchIndexError
from perception_encoder.files import cache_directory, digest, read_regular, write_json
from perception_encoder.records import parse_json
from perception_encoder.search.storage.database import DATABASE, check_settings, connect, read_settings, read_value

STORE, SEAL = ".pe-index", "seal.json"
"""Names of an index's directory, inside the indexed one, and of the seal in it."""
_DAY = 86_400  # seconds
_DAMAGE = (OSError, ValueError, sqlite3.Error, OutputError, SearchIndexError)
_checked: dict[Path, float] = {}  # times of this process's checks, in case the user's cache cannot be written


def write_seal(store: Path, settings: Mapping[str, Any], files: Iterable[Path], words: int | None = None) -> None:
    """Seal files of an index; OutputError if that fails. `words`: see `table_checksum`."""
    content = {"settings": dict(settings), "files": {path.name: _size_and_time(path) for path in files}, "words": words}
    write_json(store / SEAL, {**content, "checksum": zlib.crc32(json.dumps(content).encode())})


def read_seal(store: Path) -> dict[str, Any]:
    """Return the `settings`, `files` and `words` of an index's seal; nothing if it is missing or damaged."""
    try:
        seal = parse_json(read_regular(store / SEAL), dict[str, Any])
        return seal if seal.pop("checksum", None) == zlib.crc32(json.dumps(seal).encode()) else {}
    except (OSError, ValueError, OutputError):
        return {}


def is_sealed(store: Path, paths: Iterable[Path]) -> bool:
    """Return whether files are as the last update left them, by their sizes and times."""
    try:
        return all(read_seal(store)["files"][path.name] == _size_and_time(path) for path in paths)
    except (OSError, LookupError, TypeError):
        return False


def salvage(store: Path) -> dict[str, Any] | None:
    """Return the settings of an index that may be damaged; None if they cannot be read."""
    with suppress(*_DAMAGE), closing(connect(store)) as connection:
        return read_settings(connection)
    with suppress(ValueError):
        return check_settings(read_seal(store).get("settings")) if (store / DATABASE).exists() else None
    return None


def salvage_words(store: Path) -> bool:
    """Return whether an index that may be damaged reads words; False if that cannot be read."""
    with suppress(*_DAMAGE), closing(connect(store)) as connection:
        return read_value(connection, "words", bool)
    return False


def index_command(directory: Path, *options: str, media: Path | None = None) -> str:
    """Return the command that updates or rebuilds an index, of `media` if its settings cannot be read."""
    salvaged, home = salvage(directory / STORE), str(directory)
    root = str(media) if salvaged is None and media not in (None, directory) else (salvaged or {}).get("root")
    return shlex.join(["pe", "index", *options, *([root, "--index", home] if root else [home])])


def elsewhere(media: Path) -> str:
    """Return the advice to store the index of a directory in another place."""
    home = Path.home() / "indexes" / media.absolute().name
    return f"store the index elsewhere: {shlex.join(['pe', 'index', str(media), '--index', str(home)])}"


def check_is_due(store: Path) -> bool:
    """Return whether this user has not checked all of an index for a day."""
    times = [_checked.get(store, 0)]
    with suppress(OSError):
        times.append(_mark(store).stat().st_mtime)
    return all(abs(time.time() - checked) > _DAY for checked in times)


def record_check(store: Path) -> None:
    """Remember in the user's cache that all of an index was checked just now."""
    _checked[store] = time.time()
    with suppress(OSError):
        _mark(store).parent.mkdir(parents=True, exist_ok=True)
        _mark(store).touch()


def _mark(store: Path) -> Path:
    return cache_directory("checked-indexes") / digest(str(store.resolve()))


def _size_and_time(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
