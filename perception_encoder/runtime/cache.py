"""The cache of converted towers: in the user's cache directory, written atomically, checked before use, bounded.

An entry is a directory: an OpenVINO model, and `entry.json` with its key, the checksums of its files, and what it gave
for a fixed input when it was made. A program that is compiled from an entry must give the same again: this finds
damage that no checksum shows, such as a faulty kernel.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.files import cache_directory, file_state, remove, sync, write_json, writing
from perception_encoder.runtime.machine import cpu_flags, versions
from perception_encoder.runtime.runtime import ModelInfo, Precision

MODEL, WEIGHTS, ENTRY = "model.xml", "model.bin", "entry.json"
MAX_BYTES = 20 * 2**30
"""Maximum size of the cache; the entries that were not used for longest go first."""
_FORMAT = 1

Tower = Literal["image", "text", "decoder"]


@dataclass(frozen=True, kw_only=True)
class Key:
    """What a converted tower depends on, besides this package's conversion, the libraries and the CPU."""

    model: str
    """Name, shown in lists; not part of the entry's identity."""
    weights: str
    """Hash of the weights."""
    tower: Tower
    precision: Precision
    layer: int | None = None
    """The block whose tokens it gives; None for the model's output."""
    size: tuple[int, int] | None = None
    """Height and width of images; None for the model's."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the entry depends on, as JSON values."""
        fields = {name: value for name, value in asdict(self).items() if name != "model"}
        libraries = {name: number for name, number in versions().items() if name != "torch"}
        state = {**fields, "format": _FORMAT, "libraries": libraries, "cpu": cpu_flags()}
        return dict(json.loads(json.dumps(state)))

    @property
    def digest(self) -> str:
        """The name of the entry's directory."""
        text = json.dumps(self.identity, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A converted tower in the cache."""

    directory: Path
    model: str
    values: dict[str, Any]
    """The content of `entry.json`."""

    @property
    def path(self) -> Path:
        """The OpenVINO model."""
        return self.directory / MODEL

    @property
    def bytes(self) -> int:
        """Size on disk."""
        return sum(file.stat().st_size for file in self.directory.iterdir())

    @property
    def used(self) -> float:
        """When it was last used, in seconds since 1970."""
        return (self.directory / ENTRY).stat().st_mtime


def root() -> Path:
    """Return the cache's directory, which need not exist."""
    return cache_directory("compiled-models")


def find(key: Key) -> Entry | None:
    """Return the entry of a key; None if there is none, or if it is damaged or another's, which is then removed."""
    directory = root() / key.digest
    if not directory.is_dir():
        return None
    try:
        values = json.loads((directory / ENTRY).read_text(encoding="utf-8"))
        intact = values["identity"] == key.identity and _check_files(directory, values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        forget(key)
        return None
    with suppress(OSError):
        (directory / ENTRY).touch()
    return Entry(directory=directory, model=key.model, values=values)


def store(key: Key, write: Callable[[Path], dict[str, Any]]) -> Entry:
    """Add an entry: `write` fills a temporary directory with the model and returns further values of `entry.json`.

    Of two processes that add the same entry, the first one's stays. Raises OutputError if it cannot be written.
    """
    directory = root() / key.digest
    temporary = directory.with_name(f".{key.digest}.{os.getpid()}-{threading.get_ident()}.tmp")
    with writing(directory, also=(RuntimeError,)):  # OpenVINO's for a full disk
        try:
            temporary.mkdir(parents=True)
            further = write(temporary)
            sums = {name: _checksum(temporary / name) for name in (MODEL, WEIGHTS)}
            write_json(temporary / ENTRY, {"identity": key.identity, "model": key.model, "sums": sums, **further})
            if find(key) is None:
                for file in temporary.iterdir():
                    sync(file)
                with suppress(FileExistsError, PermissionError):  # of another process, a moment ago
                    os.rename(temporary, directory)
        finally:
            remove(temporary)
    _limit(keep=directory)
    if (entry := find(key)) is None:
        raise OutputError(f"{directory} could not be written: it differs from what was written")
    return entry


def find_info(weights: str) -> ModelInfo | None:
    """Return the description of a model by the hash of its weights, if one was stored."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError):
        info = ModelInfo.from_dict(json.loads(_info_path(weights).read_text(encoding="utf-8")))
        return info if info.weights == weights else None
    return None


def store_info(info: ModelInfo) -> None:
    """Store a model's description, so that it can be used without reading its weights; a full disk is no error."""
    with suppress(OutputError):
        write_json(_info_path(info.weights), info.to_dict())


def _info_path(weights: str) -> Path:
    return root() / f"{weights}.json"


def forget(key: Key) -> None:
    """Remove a key's entry, if there is one."""
    with suppress(OSError):
        remove(root() / key.digest)


def entries() -> Iterator[Entry]:
    """Yield all readable entries, also those of other libraries' versions, the latest used first."""
    found = []
    for directory in root().iterdir() if root().is_dir() else ():
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            values = json.loads((directory / ENTRY).read_text(encoding="utf-8"))
            found.append(Entry(directory=directory, model=str(values["model"]), values=values))
    yield from sorted(found, key=lambda entry: entry.used, reverse=True)


def delete(names: list[str] | None = None) -> int:
    """Delete the entries of models by name, or the whole cache; return the bytes that this freed."""
    freed = 0
    for entry in list(entries()):
        if names is None or entry.model in names:
            freed += entry.bytes
            shutil.rmtree(entry.directory)
    if names is None:
        shutil.rmtree(root(), ignore_errors=True)
    return freed


def _check_files(directory: Path, values: dict[str, Any]) -> bool:
    """Compare the files with their checksums, unless they are as they were when they were last compared."""
    states = {name: file_state(directory / name) for name in values["sums"]}
    seen = directory / "checked.json"
    with suppress(OSError, ValueError):
        if json.loads(seen.read_text(encoding="utf-8")) == states:
            return True
    if any(_checksum(directory / name) != value for name, value in values["sums"].items()):
        return False
    with suppress(OutputError):
        write_json(seen, states)
    return True


def _checksum(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _limit(keep: Path) -> None:
    """Remove the entries that were not used for longest until the cache fits; and what killed processes left."""
    total = 0
    for entry in list(entries()):
        total += entry.bytes
        if total > MAX_BYTES and entry.directory != keep:
            shutil.rmtree(entry.directory, ignore_errors=True)
    for left in root().glob(".*.tmp"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 86_400:
                remove(left)
