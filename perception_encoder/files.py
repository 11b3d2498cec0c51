"""Write files and directories atomically, completely or not at all, and never through a link that somebody planted."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import re
import shutil
import sqlite3
import stat
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache, lru_cache, update_wrapper
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import platformdirs

from perception_encoder.errors import OutputError, one_line

AnyPath = TypeVar("AnyPath", bound=str | Path)
Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"
_TEMPORARY = re.compile(r"\..+\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.tmp")
_PATIENCE = 86_400
"""Seconds after which a temporary path of another machine is a leftover."""
_DATABASE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16 << 20,  # bytes of a row; the longest is an index's list of unreadable files
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
}
_HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
"""Errors of a lock that somebody holds; others say that there are no locks, as on some network drives."""
_NAMES_A_FILE = bytes.fromhex("d9d505f920a163d7")
"""The end of an SQLite journal of several databases, with the name of a file that is removed if none needs it."""


@contextmanager
def writing(path: Path, note: str = "", also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors from writing `path` (OSError, and `also`) into a one-line OutputError, with a note."""
    expected: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except expected as error:
        reason = getattr(error, "strerror", None) or one_line(error, first=True)
        raise OutputError(f"{path} could not be written: {reason}" + (f"; {note}" if note else "")) from error


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path for a file or directory; it becomes `path` once it is on disk, or is removed on failure.

    `temporary`: on the same disk; by default a hidden one beside `path`, whose directory is made, and where temporary
    paths of killed processes are removed. A link is replaced itself, and not what it leads to. Raises OutputError if a
    file would replace a directory, or anything a device.
    """
    if temporary is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(path)
    remove(temporary)
    try:
        yield temporary
        for entry in [temporary, *temporary.rglob("*")]:
            sync(entry)
        if not path.is_symlink():
            _check_kind(path, temporary.is_dir())
        if temporary.is_dir():
            remove(path)  # a directory cannot be replaced at one stroke
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        remove(temporary)


def temporary_beside(path: Path) -> Path:
    """Return a hidden path beside `path`, where those of killed processes are removed."""
    _remove_leftovers(path.parent)
    return path.with_name(f".{path.name}.{_HOST}-{os.getpid()}-{threading.get_ident()}.tmp")


@lru_cache(maxsize=1024)
def _remove_leftovers(directory: Path) -> None:
    """Remove the temporary paths of `replacing` in a directory whose process is dead, once a process."""
    with suppress(OSError):
        for entry in list(os.scandir(directory)):
            if match := _TEMPORARY.fullmatch(entry.name):
                old = time.time() - entry.stat(follow_symlinks=False).st_mtime > _PATIENCE
                if old or (match["host"] == _HOST and not _is_running(int(match["pid"]))):
                    remove(Path(entry))


def is_temporary(path: Path) -> bool:
    """Return whether a path is one of `replacing`."""
    return _TEMPORARY.fullmatch(path.name) is not None


def _is_running(pid: int) -> bool:
    """Return whether this machine has a process with this number; on Windows, where asking ends it, always True."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def replacing_new(path: Path, known: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary directory that becomes `path`, which is locked meanwhile.

    OutputError if it has files other than `known` already, or another process is writing it.
    """
    lock = path.with_name(f".{path.name}.lock")
    with holding(lock, f"another process is writing {path}; wait for it, or choose another directory"):
        try:
            if path.exists() and (not path.is_dir() or {entry.name for entry in path.iterdir()}.difference(known)):
                raise OutputError(f"{path} exists and is not empty; choose another directory, or remove it")
            with replacing(path) as temporary:
                temporary.mkdir()
                yield temporary
        finally:
            lock.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically, as `replacing` does; OutputError if that fails."""
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write a text as `write_bytes` does.

    Bytes of file names that are not UTF-8 are written as escapes, which JSON reads back.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: object, indent: int | None = 2) -> None:
    """Write a value as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def _check_kind(path: Path, directory: bool) -> None:
    """Raise OutputError unless `path` is free or of the same kind."""
    if path.is_dir() and not directory:
        raise OutputError(f"{path} is a directory; choose another name")
    if path.exists() and not path.is_dir() and (directory or not path.is_file()):
        raise OutputError(f"{path} is {'a file' if path.is_file() else 'not a regular file'}; choose another name")


def refuse_link(path: Path) -> None:
    """Raise OutputError for a link: somebody may have planted it, so that we change what it leads to."""
    if path.is_symlink():
        raise OutputError(f"{path} is a link, which is not followed; remove it")


def _refuse_irregular(path: Path, follow: bool = False) -> None:
    if not follow:
        refuse_link(path)
    if path.exists() and not path.is_file():
        raise OutputError(f"{path} is not a regular file; remove it")


def refuse_database_links(path: Path) -> None:
    """Raise OutputError if an SQLite database or a file beside it is a link or a pipe, or its journal names a file.

    SQLite would remove that file. Only a database attached to others has such a journal, and none of ours is.
    """
    for suffix in ("", "-journal", "-wal", "-shm"):
        _refuse_irregular(Path(f"{path}{suffix}"))  # not opened: closing it would end other connections' locks
    journal = Path(f"{path}-journal")
    with suppress(FileNotFoundError), open(open_regular(journal, writable=False), "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - len(_NAMES_A_FILE)))
        if file.read() == _NAMES_A_FILE:
            raise OutputError(f"{journal} names another file; remove it")


def open_database(path: Path, mode: str = "mode=rwc", **options: Any) -> sqlite3.Connection:
    """Connect to a database of ours, whose definitions run nothing; raises sqlite3's errors, OutputError for a link.

    `mode`: of SQLite's URIs. `options`: of `sqlite3.connect`.
    """
    refuse_database_links(path)
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, isolation_level=None, **options)
    try:
        harden(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def harden(connection: sqlite3.Connection) -> None:
    """Limit the values of a new connection, and let nothing run that the database defines."""
    for limit, value in _DATABASE_LIMITS.items():
        connection.setlimit(limit, value)
    if sys.version_info >= (3, 12):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE, True)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_TRIGGER, False)
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_ENABLE_VIEW, False)
    connection.execute("PRAGMA trusted_schema=OFF")
    connection.execute("PRAGMA cell_size_check=ON")


def defines_only(connection: sqlite3.Connection, statements: Iterable[str], also: str = "") -> bool:
    """Return whether a database has what the statements create, once, and nothing else but tables like `also`."""
    return _definitions(connection, also) == _made_by(tuple(statements), also)


def _definitions(connection: sqlite3.Connection, also: str) -> Counter[tuple[Any, ...]]:
    query = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE type <> 'table' OR name NOT GLOB ?"
    return Counter(map(tuple, connection.execute(query, [also])))


@cache
def _made_by(statements: tuple[str, ...], also: str) -> Counter[tuple[Any, ...]]:
    with closing(sqlite3.connect(":memory:")) as new:
        for statement in statements:
            new.execute(statement)
        return _definitions(new, also)


def make_directory(path: Path) -> None:
    """Make a directory of ours, unless it exists; raises OSError, and OutputError for a link."""
    refuse_link(path)
    path.mkdir(parents=True, exist_ok=True)


def open_regular(path: Path, writable: bool = True, follow: bool = False) -> int:
    """Open a file to read or, if `writable`, to read and write, and make it if it is missing.

    Raises OSError, and OutputError for a link, unless `follow`, or another kind of file, such as a pipe.
    """
    _refuse_irregular(path, follow)
    names = ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY", "" if follow else "O_NOFOLLOW")
    flags = sum(getattr(os, name, 0) for name in names)
    handle = os.open(path, (os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY) | flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OutputError(f"{path} is not a regular file; remove it")
    return handle


def read_regular(path: Path, follow: bool = False) -> bytes:
    """Return the content of a file; raises what `open_regular` does."""
    with open(open_regular(path, writable=False, follow=follow), "rb") as file:
        return file.read()


@contextmanager
def holding(path: Path, message: str, elsewhere: str = "choose a directory on another disk") -> Iterator[None]:
    """Hold a lock file until the block or this process ends; OutputError(message) if another process holds it.

    Its directory is made, and its content stays as it is; OutputError if that cannot be, if it is a link or not a
    regular file, or if its file system has no locks: then do what `elsewhere` says. On Windows nothing is locked.
    """
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:
        yield
        return
    handle = open_regular(path)
    try:
        for waits in (True, False):
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in _HELD:
                    reason = f"{path} cannot be locked ({error.strerror}): its file system lacks flock"
                    raise OutputError(f"{reason}; {elsewhere}") from None
                if not waits:
                    raise OutputError(message) from None
                time.sleep(0.05)  # `is_held` may be asking
        if not os.fstat(handle).st_nlink:  # its holder removed it after we opened it
            raise OutputError(message)
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Return whether somebody holds a lock file of `holding`; False where nothing can be locked, as on Windows."""
    try:
        import fcntl

        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError as error:
        return error.errno in _HELD
    finally:
        os.close(handle)


def restrict(directory: Path, *like: Path) -> None:
    """Remove permissions that `like` lacks from a directory and its contents, except the owner's.

    A directory of `like` that cannot be read, such as one on an absent disk, is ignored.
    """
    if os.name == "nt":
        return
    allowed = 0o777
    for other in like:
        with suppress(OSError):
            allowed &= stat.S_IMODE(other.stat().st_mode) | 0o700
    for root, _, names in os.walk(directory):
        for path in [Path(root), *(Path(root, name) for name in names)]:
            mode = path.lstat().st_mode
            if mode & 0o077 & ~allowed and not stat.S_ISLNK(mode):
                with suppress(PermissionError):  # another user's, as in a shared directory
                    path.chmod(stat.S_IMODE(mode) & (allowed | ~0o077))


def cache_directory(name: str) -> Path:
    """Return a directory in this package's user cache, which need not exist."""
    return platformdirs.user_cache_path("perception-encoder") / name


def file_state(path: str | Path) -> str:
    """Return a value that changes with a file's content: path, size, times and inode.

    The time of the inode's change shows a write even after which the time of modification was set back. The path alone
    if there is no such file, as of a URL.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return str(path)
    numbers = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
    return "\0".join([os.path.abspath(path), *map(str, numbers)])


def digest(*values: object) -> str:
    """Return 32 hex digits that tell JSON values and bytes apart, file names that are not UTF-8 included."""
    whole = hashlib.blake2b(digest_size=16)
    for value in values:
        content = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
        whole.update(f"{isinstance(value, bytes)} {len(content)} ".encode())
        whole.update(content)
    return whole.hexdigest()


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex; raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class CachedByFile(Generic[AnyPath, Parameters, Returned]):
    """A function of a file that caches its latest results while the file is unchanged.

    The path alone would not do: another file may take its place, and a relative one means another file elsewhere.
    """

    def __init__(self, function: Callable[Concatenate[AnyPath, Parameters], Returned], size: int) -> None:
        """`size`: maximum number of cached results."""
        cached = lru_cache(size)(lambda state, *args, **options: function(*args, **options))
        self._cached: Callable[..., Returned] = cached
        self.cache_clear = cached.cache_clear
        update_wrapper(self, function)

    def __call__(self, path: AnyPath, *args: Parameters.args, **options: Parameters.kwargs) -> Returned:
        """Return the function's value for the current file."""
        return self._cached(file_state(path), path, *args, **options)


def cached_by_file(
    size: int,
) -> Callable[[Callable[Concatenate[AnyPath, Parameters], Returned]], CachedByFile[AnyPath, Parameters, Returned]]:
    """Decorate a function whose first argument is a path to cache its `size` latest results."""
    return lambda function: CachedByFile(function, size)


def remove(path: Path) -> None:
    """Remove a file, a link or a directory if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Sync a file, or a directory's entries, to disk."""
    if path.is_dir() and os.name == "nt":  # which cannot open a directory
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def safe_imports() -> Iterator[None]:
    """Let interpreters that start meanwhile import nothing from the current directory, which may be a stranger's."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = before or "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
