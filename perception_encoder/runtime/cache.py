"""Cache converted towers in the user's cache directory.

An entry is a directory with an OpenVINO model, an example with its output, and `entry.json`, which holds the key and
the checksums of the files. Entries are written atomically and checked before use. A program compiled from an entry must
reproduce the example's output, which also detects damage that checksums do not show, such as a faulty kernel.
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
from perception_encoder.errors import OutputError
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
from perception_encoder.models.registry import shown_name
from perception_encoder.records import from_fields, parse_json
from perception_encoder.runtime import requests
from perception_encoder.runtime.machine import cpu_flags, versions
from perception_encoder.runtime.runtime import PRECISIONS, ModelInfo, Precision

MODEL, WEIGHTS, ENTRY, CHECKED = "model.xml", "model.bin", "entry.json", "checked.json"
SINGLE, PARALLEL = "single.blob", "parallel.blob"
"""Programs compiled from the model, to compute one input or several at a time; they check themselves."""
MAX_BYTES = 20 * 2**30
"""Maximum size of the cache; the least recently used entries are removed first."""
_FORMAT = 11
_SHOWN = ("weights", "tower", "precision", "layer")

Tower = Literal["image", "text", "query", "document"]
"""The last two: texts, where a model has a part for each role."""


@dataclass(frozen=True, kw_only=True)
class Key:
    """The tower, model and precision of an entry. `identity` adds the versions of the libraries and the CPU."""

    model: str
    """Name for lists; two names of the same weights share an entry."""
    weights: str
    """Hash of the weights."""
    config: VisionConfig | TextConfig | dict[str, Any]
    """The tower's, such as its number of heads, which weights do not show; also the version of another library."""
    tower: Tower
    precision: Precision
    layer: int | None = None
    """The block that returns the tokens; None for the model's output."""

    @property
    def identity(self) -> dict[str, Any]:
        """Return everything that the entry depends on, as JSON values."""
        fields = {name: value for name, value in asdict(self).items() if name != "model"}
        return dict(json.loads(json.dumps({**fields, **_surroundings()})))

    @property
    def digest(self) -> str:
        """Return the name of the entry's directory."""
        return digest(self.identity)


@dataclass(frozen=True, kw_only=True)
class CachedTower:
    """A converted tower in the cache."""

    directory: Path
    model: str
    values: dict[str, Any]
    """The content of `entry.json`."""
    bytes: int
    """Size on disk."""
    used: float
    """Time of the last use, in seconds since 1970."""

    @property
    def path(self) -> Path:
        """Return the file of the OpenVINO model."""
        return self.directory / MODEL

    def to_dict(self) -> dict[str, Any]:
        """Return key, size and last use; "usable" tells whether it fits the installed libraries and this CPU.

        "request" and "images_per_second": how large batches are computed, if that is measured (`requests.py`).
        """
        identity = self.values["identity"]
        used = datetime.fromtimestamp(self.used, UTC).isoformat(timespec="seconds")
        usable = all(identity.get(name) == value for name, value in _surroundings().items())
        shown = {name: identity[name] for name in _SHOWN} | {"precision": self.precision}
        measured = requests.find_measurement(self.directory)
        speed = {"request": measured and str(measured.request), "images_per_second": measured and measured.speed}
        return {"model": self.model, **shown, "bytes": self.bytes, "last_used": used, "usable": usable, **speed}

    @property
    def precision(self) -> Precision:
        """Return the key's precision, or the one used instead because the key's differed too much from float32."""
        found = self.values.get("precision")
        return found if found in PRECISIONS else self.values["identity"]["precision"]


def root() -> Path:
    """Return the cache's directory; it may not exist yet."""
    return cache_directory("compiled-models")


def find(key: Key) -> CachedTower | None:
    """Return the entry of a key, or None; a damaged entry, or one of another key, is removed."""
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


def store(key: Key, write: Callable[[Path], dict[str, Any]]) -> CachedTower:
    """Add an entry: `write` fills a temporary directory and returns further values for `entry.json`.

    If another process has added the same entry meanwhile, that one stays. Raises OutputError if writing fails.
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
                    if find(key) is None:  # else another process was faster
                        raise
        finally:
            remove(temporary)
    _limit(keep=directory)
    if (entry := find(key)) is None:
        raise OutputError(f"{directory} could not be written: it differs from what was written")
    return entry


def find_info(file: str, weights: str) -> ModelInfo | None:
    """Return the cached description of a weights file (`CachedHash.key`) if its weights have this hash, or None."""
    with suppress(OSError, ValueError, KeyError):
        values = parse_json(_info_path(file).read_bytes(), dict[str, Any])
        info = from_fields(ModelInfo, values["model"])
        if (values["package"], info.weights) == (__version__, weights):
            return info
    return None


def store_info(file: str, info: ModelInfo) -> None:
    """Cache the description of a weights file, so that its weights need not be read; a full disk is ignored."""
    with suppress(OutputError):
        write_json(_info_path(file), {"package": __version__, "model": asdict(info)})


def find_failure(key: Key) -> str | None:
    """Return the stored reason why a tower cannot be converted, or None."""
    with suppress(OSError, ValueError, KeyError):
        values = parse_json(_info_path(key.digest).read_bytes(), dict[str, Any])
        return values["failure"] if values["identity"] == key.identity else None
    return None


def store_failure(key: Key, reason: str) -> None:
    """Store why a tower cannot be converted, since finding out takes long; a full disk is ignored."""
    with suppress(OutputError):
        write_json(_info_path(key.digest), {"identity": key.identity, "failure": reason})


def _info_path(file: str) -> Path:
    return root() / f"{file}.json"


def forget(key: Key) -> None:
    """Remove the entry of a key, if any."""
    _discard(root() / key.digest)


def entries() -> list[CachedTower]:
    """Return all readable entries, the most recently used first, including those of other library versions."""
    found = [entry for path in _contents() if not is_temporary(path) and (entry := _read(path)) is not None]
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def measure_again(model: str | None = None) -> list[CachedTower]:
    """Forget how large batches of a model, or by default of all, are computed; return its entries."""
    found = [entry for entry in entries() if model in (None, entry.model)]
    for entry in found:
        _discard(entry.directory / requests.FILE)
    return found


def delete(model: str | None = None) -> list[CachedTower]:
    """Delete the entries of a model by any of its names, or by default all, including damaged ones.

    Returns the readable ones. Raises OutputError if one cannot be deleted.
    """
    deleted = [entry for entry in entries() if model is None or entry.model == (shown_name(model) or model)]
    for path in _contents() if model is None else [entry.directory for entry in deleted]:
        _discard(path)
        if path.exists():
            raise OutputError(f"{path} could not be deleted; check its permissions")
    return deleted


def _contents() -> list[Path]:
    """Return all paths in the cache: entries, temporary directories and descriptions."""
    try:
        return list(root().iterdir())
    except OSError:
        return []


def _discard(path: Path) -> None:
    """Remove a file, a directory, or a link but not its target; missing permissions are ignored."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink()


def _read(directory: Path) -> CachedTower | None:
    """Return the entry in a directory, or None if `entry.json` is damaged or files are missing."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        values = parse_json((directory / ENTRY).read_bytes(), dict[str, Any])
        model, identity = values["model"], values["identity"]
        known = identity["precision"] in PRECISIONS and all(name in identity for name in _SHOWN)
        if isinstance(model, str) and known and {MODEL, WEIGHTS} <= values["sums"].keys():
            files = [*map(directory.joinpath, values["sums"]), *directory.glob("*.blob")]
            size = sum(file.stat().st_size for file in files)
            used = (directory / ENTRY).stat().st_mtime
            return CachedTower(directory=directory, model=model, values=values, bytes=size, used=used)
    return None


def _is_intact(entry: CachedTower) -> bool:
    """Return whether the files have their checksums; files unchanged since the last check are not read again."""
    sums: dict[str, str] = entry.values["sums"]
    try:
        states = {name: file_state(entry.directory / name) for name in sums}
        with suppress(OSError, ValueError):
            if parse_json((entry.directory / CHECKED).read_bytes(), object) == states:
                return True
        if any(checksum(entry.directory / name) != value for name, value in sums.items()):
            return False
    except OSError:
        return False
    with suppress(OutputError):
        write_json(entry.directory / CHECKED, states)
    return True


def _surroundings() -> dict[str, Any]:
    """Return the versions of this package and the libraries, and the CPU."""
    libraries = {name: number for name, number in versions().items() if name != "torch"}
    return {"format": _FORMAT, "package": __version__, "libraries": libraries, "cpu": cpu_flags()}


def _limit(keep: Path) -> None:
    """Remove damaged entries, then the least recently used ones until the cache fits `MAX_BYTES`."""
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
