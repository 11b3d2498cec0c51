"""Files beside an index's table: settings, a seal with checksums of all files, and a snapshot of the rows.

The seal turns damage into an error instead of a wrong answer: LanceDB reads a flipped byte as another vector, and a
table without its newest manifest as an older table. A search compares the size and time of each file and reads only
files that differ; `pe index` reads everything. The seal is written after each commit. In
between, and after a kill, the table has a commit that the seal does not know: new files are then unknown and old ones
may be missing, but existing ones must still match.

The seal also holds the checksums of the snapshot's files, while both are of the same commit.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from perception_encoder.errors import OutputError
from perception_encoder.files import restrict, write_json, writing
from perception_encoder.formats.tables import without_panics
from perception_encoder.search.storage.snapshot import CODES, ROWS, VECTORS, Snapshot, state_of, write_snapshot

SETTINGS, SEAL = "settings.json", "seal.json"
LAYOUT = 2
"""Version of the table's layout; an index of another version has to be rebuilt."""
_SETTING_TYPES = {"source": str, "model": str, "weight_hash": str, "dimension": int, "moments": dict, "root": str}
TABLE = "moments"
"""The name of the table; LanceDB stores it in moments.lance."""
_MANIFESTS = f"{TABLE}.lance/_versions"
_HINT = "latest_version_hint.json"
_UNREAD = "_transactions"  # LanceDB needs these if two writers conflict; an index has one writer
_TRIES = 5
Sum = tuple[int, int, int]
"""A file's size, modification time in nanoseconds, and CRC-32, which finds accidental damage only."""


def read_settings(directory: Path, any_layout: bool = False) -> dict[str, Any]:
    """Read the settings in an index's directory; OSError or ValueError if they are unreadable or invalid.

    Those of another layout are checked only with `any_layout`.
    """
    try:
        settings = json.loads((directory / SETTINGS).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError(f"{SETTINGS} is nested too deep") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{SETTINGS} is not a JSON object")
    if settings.get("layout") != LAYOUT and not any_layout:
        return settings
    for name, kind in _SETTING_TYPES.items():
        value = settings.get(name, "" if name == "root" else None)
        if not isinstance(value, kind):
            raise ValueError(f"{SETTINGS}: {name} is {str(value)[:80]!r}, not a {kind.__name__}")
    for name, value in settings["moments"].items():
        if not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise ValueError(f"{SETTINGS}: {name} is {str(value)[:80]!r}, not a positive number")
    return settings


def salvage_settings(directory: Path) -> dict[str, Any] | None:
    """Read the settings of an index of any layout, even if its table is damaged; None if that fails."""
    try:
        return read_settings(directory, any_layout=True)
    except (OSError, ValueError):
        return None


@dataclass(frozen=True, kw_only=True)
class Seal:
    """The expected files of an index."""

    head: str
    """The newest manifest."""
    files: Mapping[str, Sum]
    """Files by path in the index's directory."""
    complete: bool = False
    """False while `pe index` runs, or if it was stopped."""
    snapshot: Mapping[str, Sum] | None = None
    """The files of this commit's snapshot."""


@dataclass(frozen=True)
class SealState:
    """A seal, None if it is missing or damaged, and the manifests that existed when it was checked."""

    seal: Seal | None
    manifests: frozenset[str]

    @property
    def current(self) -> bool:
        """Whether the seal belongs to the last commit."""
        return self.seal is not None and not self.manifests - self.seal.files.keys()

    @property
    def complete(self) -> bool:
        """Whether a complete run of `pe index` left the index in this state."""
        return self.seal is not None and self.seal.complete and self.current

    @property
    def snapshot(self) -> Mapping[str, Sum] | None:
        """The files of an up-to-date snapshot."""
        return self.seal.snapshot if self.seal is not None and self.current else None


def read_state(directory: Path) -> SealState:
    """Read the seal in an index's directory without checking the files."""
    manifests = frozenset(f"{_MANIFESTS}/{path.name}" for path in (directory / _MANIFESTS).glob("*.manifest"))
    try:
        values = json.loads((directory / SEAL).read_text(encoding="utf-8"))
        if values.pop("checksum") != _checksum(values):
            return SealState(None, manifests)
        values["files"] = {name: tuple(numbers) for name, numbers in values["files"].items()}
        if values["snapshot"] is not None:
            values["snapshot"] = {name: tuple(numbers) for name, numbers in values["snapshot"].items()}
        return SealState(Seal(**values), manifests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return SealState(None, manifests)


def manifests_of(version: int) -> tuple[str, str]:
    """Return the possible paths of a commit's manifest, in LanceDB's second and first scheme."""
    return f"{_MANIFESTS}/{(1 << 64) - 1 - version:020d}.manifest", f"{_MANIFESTS}/{version}.manifest"


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def _check_state(directory: Path, whole: bool = False) -> SealState:
    """Compare an index's files with its seal, and all their bytes if `whole`; ValueError names a damaged file.

    Another process may write meanwhile; then the files are compared again.
    """
    for _ in range(_TRIES):
        state = read_state(directory)
        problem = _problem(directory, state, whole)
        if problem is None:
            return state
        if state == read_state(directory):
            break
    raise ValueError(problem)


def _is_sound(path: Path, status: os.stat_result, sealed: Sum, whole: bool) -> bool:
    """Return whether a file is as it was sealed; reads it if `whole`, or if its time has changed."""
    if status.st_size != sealed[0]:
        return False
    return (status.st_mtime_ns == sealed[1] and not whole) or _checksum_of(path) == sealed[2]


def _problem(directory: Path, state: SealState, whole: bool) -> str | None:
    seal = state.seal
    if seal is None:
        return None
    if seal.head not in state.manifests and state.current:
        return f"{seal.head} is missing"
    for name, sealed in seal.files.items():
        try:
            status = os.stat(f"{directory}/{name}")
        except OSError:
            if state.complete:
                return f"{name} is missing"
            continue  # cleaned up, or LanceDB reports it
        if name.endswith(_HINT) and not state.current:
            continue  # the next commit's
        if not _is_sound(directory / name, status, sealed, whole):
            return f"{name} has changed since it was written"
    return None


def write_seal(
    directory: Path,
    version: int,
    before: Seal | None,
    *,
    complete: bool = False,
    snapshot: Mapping[str, Sum] | None = None,
) -> None:
    """Seal the files of a table's commit; ValueError if a file sealed before has changed, or the commit is missing.

    `snapshot`: the files of a new one; the one of `before` stays valid for the same commit.
    """
    earlier = before.files if before else {}
    files: dict[str, Sum] = {}
    for path in _sealed_files(directory):
        name, status = path.relative_to(directory).as_posix(), path.stat()
        old = earlier.get(name)
        checksum = old[2] if old and old[:2] == (status.st_size, status.st_mtime_ns) else _checksum_of(path)
        if old and path.name != _HINT and checksum != old[2]:
            raise ValueError(f"{name} has changed since it was written")
        files[name] = (status.st_size, status.st_mtime_ns, checksum)
    heads = [head for head in manifests_of(version) if head in files]
    if not heads:
        raise ValueError(f"commit {version} is missing")
    if snapshot is None and before and before.head == heads[0]:
        snapshot = before.snapshot
    _write(directory, Seal(head=heads[0], files=files, complete=complete, snapshot=snapshot))


def _write(directory: Path, seal: Seal) -> None:
    values = asdict(seal)
    write_json(directory / SEAL, {**values, "checksum": _checksum(values)}, indent=None)


def _checksum_of(path: Path, begun: tuple[int, int] = (0, 0)) -> int:
    """Return the CRC-32 of a file; `begun`: the number and the checksum of its first bytes."""
    start, checksum = begun
    with path.open("rb") as file:
        file.seek(start)
        while piece := file.read(1 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _sealed_files(directory: Path) -> Iterator[Path]:
    yield directory / SETTINGS
    for parent, subdirectories, names in os.walk(directory / f"{TABLE}.lance"):
        subdirectories[:] = [name for name in subdirectories if name != _UNREAD]
        yield from (Path(parent, name) for name in sorted(names))


class SealedFiles:
    """The files of an open index and their seal."""

    def __init__(self, directory: Path, store: Path, root: Path, whole: bool = False) -> None:
        """Check the files in `store`, the index in `directory` of the images in `root`; ValueError if damaged."""
        self._directory, self._store, self._root = directory, store, root
        self._identity = self._identify()
        self.state = _check_state(store, whole)
        self._sums: Mapping[str, Sum] = {}

    def _identify(self) -> tuple[int, int] | None:
        """Return what tells apart the indexes that a directory holds over time; None without an index."""
        try:
            status = (self._store / SETTINGS).stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns

    @property
    def same(self) -> bool:
        """Whether the index is still the one that was opened, not a new one at the same path."""
        return self._identify() == self._identity

    def refresh(self) -> bool:
        """Return whether the commit or seal has changed; if so, check the files again."""
        if read_state(self._store) == self.state:
            return False
        self.state = _check_state(self._store)
        return True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Allow writing files; OutputError if that fails, or if the index was removed or replaced."""
        gone = f"the index of {self._directory} was removed or rebuilt during the update; rerun the command"
        if not self.same:
            raise OutputError(gone)
        with writing(self._store, also=(RuntimeError, ValueError)), without_panics():
            yield
        if not self.same:
            raise OutputError(gone)

    def reopen(self) -> None:
        """Mark the index as unfinished from now on."""
        if self.state.seal is not None and self.state.seal.complete:
            with self.changing():
                seal = replace(self.state.seal, complete=False)
                _write(self._store, seal)
                self.state = replace(self.state, seal=seal)

    def seal(self, version: int, *, complete: bool = False, snapshot: Mapping[str, Sum] | None = None) -> None:
        """Seal a commit, as `write_seal` does, with the permissions of the images."""
        with self.changing():
            write_seal(self._store, version, self.state.seal, complete=complete, snapshot=snapshot)
            self.state = read_state(self._store)
        self.restrict()

    def restrict(self) -> None:
        """Limit the permissions of the index's files to those of the images' directory; raises what `changing` does."""
        with self.changing():
            restrict(self._store, self._directory, self._root)

    def read_snapshot(self, dimension: int, whole: bool = False) -> Snapshot | None:
        """Open the sealed snapshot; None if there is none, or it is damaged.

        `whole`: check all of its bytes, not only those of files whose size or time changed.
        """
        sums, seal = self.state.snapshot, self.state.seal
        if sums is None or seal is None:
            return None
        paths = {self._store / name: sealed for name, sealed in sums.items()}
        states = [state_of(path) for path in paths]
        try:
            if not all(_is_sound(path, path.stat(), sealed, whole) for path, sealed in paths.items()):
                return None
            snapshot = Snapshot(self._store, dimension, seal.head)
        except (OSError, ValueError, LookupError, TypeError):
            return None
        if states != [state_of(path) for path in paths]:  # replaced meanwhile, so the opened ones may be of two commits
            return None
        self._sums = sums
        return snapshot

    def write_snapshot(
        self, rows: pa.Table, dimension: int, before: Snapshot | None, read: Callable[..., Iterator[pa.RecordBatch]]
    ) -> dict[str, Sum]:
        """Write a snapshot, as the function of the same name does; return its files."""
        with self.changing():
            appended = write_snapshot(self._store, rows, dimension, before, read)
        sums: dict[str, Sum] = {}
        for path in (self._store / name for name in (ROWS, VECTORS, CODES)):
            if path.exists():
                old = self._sums.get(path.name) if appended and path.name == VECTORS else None
                status = path.stat()
                checksum = _checksum_of(path, (old[0], old[2]) if old else (0, 0))
                sums[path.name] = (status.st_size, status.st_mtime_ns, checksum)
        self._sums = sums
        return sums
