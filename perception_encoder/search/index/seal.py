"""Checksums of an index's files beside its last commit, so that a damaged index is an error and never a wrong answer.

LanceDB reads what is there: a flipped byte is another vector, and without its newest manifest a table is an older one.
A search compares the size and time of each file, which takes no time, and reads only files whose size or time is
another; the snapshot, which answers most searches, is read whole. `pe index` reads everything. The checksum is zlib's
CRC-32: it finds damage at more than a gigabyte a second; it is no guard against someone who changes files on purpose.

After a commit the seal is written anew. In between, and after a kill, the table has a commit that the seal does not
know: then new files are unknown and old ones may be gone, but those that are there must still match.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from perception_encoder.errors import OutputError
from perception_encoder.files import replacing, restrict, writing
from perception_encoder.formats.lance import without_panics
from perception_encoder.search.index.settings import SETTINGS, identify

_FILE = "seal.json"
_MANIFESTS, _HINT = "_versions", "latest_version_hint.json"
_UNREAD = "_transactions"
"""What LanceDB needs to settle a quarrel of two writers; an index has one."""
_PIECE = 1 << 20
_TRIES = 5

Sum = tuple[int, int, int]
"""Of a file: size, time of its last change in nanoseconds, CRC-32."""


@dataclass(frozen=True, kw_only=True)
class Seal:
    """What an index's files have to be."""

    head: str
    """The newest manifest."""
    files: Mapping[str, Sum]
    """By path below the index's own folder."""
    complete: bool = False
    """False while `pe index` is at work, or if it was stopped."""
    snapshot: int | None = None
    """CRC-32 of the snapshot of this commit."""


@dataclass(frozen=True)
class State:
    """A seal, and the manifests that were there when it was checked."""

    seal: Seal | None
    manifests: frozenset[str]

    @property
    def current(self) -> bool:
        """Whether the seal is of the last commit."""
        return self.seal is not None and not self.manifests - self.seal.files.keys()

    @property
    def complete(self) -> bool:
        """Whether the index is what a whole run of `pe index` left."""
        return self.seal is not None and self.seal.complete and self.current

    @property
    def snapshot(self) -> int | None:
        """The checksum of a snapshot that is up to date."""
        return self.seal.snapshot if self.seal is not None and self.current else None


def read_state(place: Path, table: str) -> State:
    """The seal in an index's folder, not checked; without one if it is missing or damaged itself."""
    folder = place / f"{table}.lance" / _MANIFESTS
    names = [path.name for path in folder.glob("*.manifest")]
    return State(_read(place), frozenset(f"{table}.lance/{_MANIFESTS}/{name}" for name in names))


def check_state(place: Path, table: str, whole: bool = False) -> State:
    """Compare an index's files with its seal, all their bytes if `whole`; ValueError names a file that is not right.

    A writer beside may change files meanwhile; then they are compared again.
    """
    for _ in range(_TRIES):
        state = read_state(place, table)
        problem = _problem(place, state, whole)
        if problem is None:
            return state
        if state == read_state(place, table):
            break
    raise ValueError(problem)


def _problem(place: Path, state: State, whole: bool) -> str | None:
    seal = state.seal
    if seal is None:
        return None
    if seal.head not in state.manifests and state.current:
        return f"{seal.head} is missing"
    for name, (size, modified, checksum) in seal.files.items():
        try:
            status = os.stat(f"{place}/{name}")
        except OSError:
            if seal.complete and state.current:
                return f"{name} is missing"
            continue  # cleaned up, or LanceDB says so
        if name.endswith(_HINT) and not state.current:
            continue  # the next commit's
        same = (status.st_size, status.st_mtime_ns) == (size, modified)
        if (whole or not same) and (status.st_size != size or checksum_of(place / name) != checksum):
            return f"{name} is not as it was written"
    return None


def write_seal(
    place: Path, table: str, version: int, before: Seal | None, *, complete: bool = False, snapshot: int | None = None
) -> Seal:
    """Seal the files of a table's commit; ValueError if one that was sealed before is another now, or the commit gone.

    `snapshot`: the checksum of a new one; the one of `before` stays valid while the commit is the same.
    """
    known = before.files if before else {}
    files: dict[str, Sum] = {}
    for path in _sealed(place, table):
        name, status = path.relative_to(place).as_posix(), path.stat()
        old = known.get(name)
        checksum = old[2] if old and old[:2] == (status.st_size, status.st_mtime_ns) else checksum_of(path)
        if old and path.name != _HINT and checksum != old[2]:
            raise ValueError(f"{name} is not as it was written")
        files[name] = (status.st_size, status.st_mtime_ns, checksum)
    names = (f"{(1 << 64) - 1 - version:020d}.manifest", f"{version}.manifest")  # LanceDB's second and first scheme
    heads = [head for name in names if (head := f"{table}.lance/{_MANIFESTS}/{name}") in files]
    if not heads:
        raise ValueError(f"commit {version} is missing")
    kept = before.snapshot if before and before.head == heads[0] else None
    snapshot = kept if snapshot is None else snapshot
    return _write(place, Seal(head=heads[0], files=files, complete=complete, snapshot=snapshot))


def remove_seal(place: Path) -> None:
    """Remove the seal, if there is one."""
    (place / _FILE).unlink(missing_ok=True)


def _write(place: Path, seal: Seal) -> Seal:
    values = asdict(seal)
    with replacing(place / _FILE, through_link=False) as temporary:
        temporary.write_text(json.dumps({**values, "checksum": _checksum(values)}), encoding="utf-8")
    return seal


def _read(place: Path) -> Seal | None:
    try:
        values = json.loads((place / _FILE).read_text(encoding="utf-8"))
        if values.pop("checksum") != _checksum(values):
            return None
        return Seal(**{**values, "files": {name: tuple(numbers) for name, numbers in values["files"].items()}})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _checksum(values: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def checksum_of(path: Path) -> int:
    """CRC-32 of a file's content."""
    checksum = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _sealed(place: Path, table: str) -> Iterator[Path]:
    yield place / SETTINGS
    for folder, folders, names in os.walk(place / f"{table}.lance"):
        folders[:] = [name for name in folders if name != _UNREAD]
        yield from (Path(folder, name) for name in sorted(names))


class SealedFiles:
    """The files of an open index, and what their seal says of them."""

    def __init__(self, folder: Path, place: Path, table: str, root: Path, whole: bool = False) -> None:
        """Check the files in `place`, the index in `folder` of the images in `root`, as `check_state` does."""
        self._folder, self._place, self._table, self._root = folder, place, table, root
        self._made = identify(place)
        self.state = check_state(place, table, whole)

    @property
    def same(self) -> bool:
        """Whether the index is the one that was opened, and not one that was made in its place since."""
        return identify(self._place) == self._made

    def refresh(self) -> bool:
        """Whether there is another commit or seal than before; then the files are checked again."""
        if read_state(self._place, self._table) == self.state:
            return False
        self.state = check_state(self._place, self._table)
        return True

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Let files be written; OutputError where that fails, or where the index is not the one that was opened."""
        gone = f"the index of {self._folder} was removed or made anew while it was written; give the same command again"
        if not self.same:
            raise OutputError(gone)
        with writing(self._place, also=(RuntimeError, ValueError)), without_panics():
            yield
        if not self.same:
            raise OutputError(gone)

    def reopen(self) -> None:
        """Note that the index is being changed, or tidied up, from now on."""
        if self.state.seal is not None and self.state.seal.complete:
            with self.changing():
                seal = _write(self._place, replace(self.state.seal, complete=False))
                self.state = replace(self.state, seal=seal)

    def seal(self, version: int, *, complete: bool = False, snapshot: int | None = None) -> None:
        """Seal a commit, as `write_seal` does, and let nobody read it who may not read the images."""
        with self.changing():
            write_seal(self._place, self._table, version, self.state.seal, complete=complete, snapshot=snapshot)
            self.state = read_state(self._place, self._table)
        self.restrict()

    def restrict(self) -> None:
        """Let nobody read the index who may not read the images; raises what `changing` does."""
        with self.changing():
            restrict(self._place, self._folder, self._root)

    def tidy(self, age: timedelta) -> bool:
        """Whether the index is sealed as finished, with its files' times, and no former commit is older than `age`."""
        seal, oldest = self.state.seal, time.time_ns() - age // timedelta(microseconds=1) * 1000
        if seal is None or not self.state.complete:
            return False
        former = (name for name in seal.files if name.endswith(".manifest") and name != seal.head)
        if any(seal.files[name][1] < oldest for name in former):
            return False
        try:
            return all((self._place / name).stat().st_mtime_ns == seal.files[name][1] for name in seal.files)
        except OSError:
            return False
