"""The cache of converted towers: in the user's cache directory, written atomically, checked before use, bounded.

An entry is a directory: an OpenVINO model, and `entry.json` with its key, the checksums of its files, and what it gave
for a fixed input when it was made. A program that is compiled from an entry must give the same again: this finds
damage that no checksum shows, such as a faulty kernel.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from perception_encoder._version import __version__
from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.files import (
    cache_directory,
    checksum,
    digest,
    file_state,
    is_temporary,
    remove,
    sync,
    temporary_beside,
    write_json,
    writing,
)
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.runtime.machine import cpu_flags, versions
from perception_encoder.runtime.runtime import PRECISIONS, ModelInfo, Precision

MODEL, WEIGHTS, ENTRY, CHECKED = "model.xml", "model.bin", "entry.json", "checked.json"
MAX_BYTES = 20 * 2**30
"""Maximum size of the cache; the entries that were not used for longest go first."""
_FORMAT = 9
_SHOWN = ("weights", "tower", "precision", "layer")

Tower = Literal["image", "text"]


@dataclass(frozen=True, kw_only=True)
class Key:
    """Everything a converted tower depends on, besides the versions of this package and the libraries, and the CPU."""

    model: str
    """Name, shown in lists; not part of the entry's identity."""
    weights: str
    """Hash of the weights."""
    config: VisionConfig | TextConfig | dict[str, Any]
    """The tower's, which the weights do not tell, as its heads and its image size; of another library's model, also the
    library's version."""
    tower: Tower
    precision: Precision
    layer: int | None = None
    """The block whose tokens it gives; None for the model's output."""

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that the entry depends on, as JSON values."""
        fields = {name: value for name, value in asdict(self).items() if name != "model"}
        return dict(json.loads(json.dumps({**fields, **_surroundings()})))

    @property
    def digest(self) -> str:
        """The name of the entry's directory."""
        return digest(self.identity)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A converted tower in the cache."""

    directory: Path
    model: str
    values: dict[str, Any]
    """The content of `entry.json`."""
    bytes: int
    """Size on disk."""
    used: float
    """When it was last used, in seconds since 1970."""

    @property
    def path(self) -> Path:
        """The OpenVINO model."""
        return self.directory / MODEL

    def to_dict(self) -> dict[str, Any]:
        """Return its description, size and last use; "usable": by these versions of the libraries, on this CPU."""
        identity = self.values["identity"]
        used = datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")
        usable = all(identity.get(name) == value for name, value in _surroundings().items())
        shown = {name: identity[name] for name in _SHOWN} | {"precision": self.precision}
        return {"model": self.model, **shown, "bytes": self.bytes, "last_used": used, "usable": usable}

    @property
    def precision(self) -> Precision:
        """Its key's, or another if that was too far from float32."""
        found = self.values.get("precision")
        return found if found in PRECISIONS else self.values["identity"]["precision"]


def root() -> Path:
    """Return the cache's directory, which need not exist."""
    return cache_directory("compiled-models")


def find(key: Key) -> Entry | None:
    """Return the entry of a key; None if there is none, or if it is damaged or another's, which is then removed."""
    directory = root() / key.digest
    if not os.path.lexists(directory):
        return None
    entry = _read(directory)
    if entry is None or entry.values["identity"] != key.identity or not _is_intact(entry):
        forget(key)
        return None
    with suppress(OSError):
        (directory / ENTRY).touch()
    return entry


def store(key: Key, write: Callable[[Path], dict[str, Any]]) -> Entry:
    """Add an entry: `write` fills a temporary directory with the model and returns further values of `entry.json`.

    Of two processes that add the same entry, the first one's stays. Raises OutputError if it cannot be written.
    """
    directory = root() / key.digest
    with writing(directory, also=(RuntimeError,)):  # OpenVINO's for a full disk
        temporary = temporary_beside(directory)
        try:
            temporary.mkdir(parents=True)
            further = write(temporary)
            sums = {file.name: checksum(file) for file in temporary.iterdir()}
            write_json(temporary / ENTRY, {"identity": key.identity, "model": key.model, "sums": sums, **further})
            if find(key) is None:
                for file in temporary.iterdir():
                    sync(file)
                try:
                    os.rename(temporary, directory)
                except OSError:
                    if find(key) is None:  # else it is another process's, a moment ago
                        raise
        finally:
            remove(temporary)
    _limit(keep=directory)
    if (entry := find(key)) is None:
        raise OutputError(f"{directory} could not be written: it differs from what was written")
    return entry


def find_info(file: str, weights: str) -> ModelInfo | None:
    """Return the stored description of the model in a file (`CachedHash.key`) whose weights have this hash, if any."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError):
        values = json.loads(_info_path(file).read_text(encoding="utf-8"))
        if (values["package"], values["model"]["weights"]) == (__version__, weights):
            return ModelInfo.from_dict(values["model"])
    return None


def store_info(file: str, info: ModelInfo) -> None:
    """Store the description of the model in a file, for use without its weights; if the disk is full, do nothing."""
    with suppress(OutputError):
        write_json(_info_path(file), {"package": __version__, "model": info.to_dict()})


def find_failure(key: Key) -> str | None:
    """Return why a tower could not be converted, if that was stored."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        values = json.loads(_info_path(key.digest).read_text(encoding="utf-8"))
        return values["failure"] if values["identity"] == key.identity else None
    return None


def store_failure(key: Key, reason: str) -> None:
    """Store why a tower cannot be converted, which takes long to find out; if the disk is full, do nothing."""
    with suppress(OutputError):
        write_json(_info_path(key.digest), {"identity": key.identity, "failure": reason})


def _info_path(file: str) -> Path:
    return root() / f"{file}.json"


def forget(key: Key) -> None:
    """Remove a key's entry, if there is one."""
    _discard(root() / key.digest)


def entries() -> list[Entry]:
    """Return all readable entries, also those of other libraries' versions, the latest used first."""
    found = [entry for path in _contents() if not is_temporary(path) and (entry := _read(path)) is not None]
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def delete(model: str | None = None) -> list[Entry]:
    """Delete the entries of a model, or by default all, also damaged ones; return the readable ones among them.

    Raises OutputError if one cannot be deleted.
    """
    deleted = [entry for entry in entries() if model in (None, entry.model)]
    for path in _contents() if model is None else [entry.directory for entry in deleted]:
        _discard(path)
        if path.exists():
            raise OutputError(f"{path} could not be deleted; check its permissions")
    return deleted


def _contents() -> list[Path]:
    """List the cache: entries, damaged ones too, those that are being written, and descriptions."""
    try:
        return list(root().iterdir())
    except OSError:
        return []


def _discard(path: Path) -> None:
    """Remove an entry, as far as permissions allow; for a link, only the link itself."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _read(directory: Path) -> Entry | None:
    """Return the entry in a directory; None if it is damaged. Its files are not compared with their checksums."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        values = json.loads((directory / ENTRY).read_text(encoding="utf-8"))
        model, identity = values["model"], values["identity"]
        known = identity["precision"] in PRECISIONS and all(name in identity for name in _SHOWN)
        if isinstance(model, str) and known and {MODEL, WEIGHTS} <= values["sums"].keys():
            size = sum((directory / name).stat().st_size for name in values["sums"])
            used = (directory / ENTRY).stat().st_mtime
            return Entry(directory=directory, model=model, values=values, bytes=size, used=used)
    return None


def _is_intact(entry: Entry) -> bool:
    """Compare the files with their checksums, unless they are as they were when they were last compared."""
    sums: dict[str, str] = entry.values["sums"]
    try:
        states = {name: file_state(entry.directory / name) for name in sums}
        with suppress(OSError, ValueError, RecursionError):
            if json.loads((entry.directory / CHECKED).read_text(encoding="utf-8")) == states:
                return True
        if any(checksum(entry.directory / name) != value for name, value in sums.items()):
            return False
    except OSError:
        return False
    with suppress(OutputError):
        write_json(entry.directory / CHECKED, states)
    return True


def _surroundings() -> dict[str, Any]:
    """Return the dependencies of entries besides the model: this package, the libraries and the CPU."""
    libraries = {name: number for name, number in versions().items() if name != "torch"}
    return {"format": _FORMAT, "package": __version__, "libraries": libraries, "cpu": cpu_flags()}


def _limit(keep: Path) -> None:
    """Remove damaged entries, and those that were not used for longest until the cache fits."""
    total = 0
    readable = sorted(entries(), key=lambda entry: entry.directory != keep)
    for entry in readable:
        total += entry.bytes
        if total > MAX_BYTES and entry.directory != keep:
            _discard(entry.directory)
    known = {entry.directory for entry in readable}
    for path in _contents():
        if path.is_dir() and path not in known and not is_temporary(path):
            _discard(path)
