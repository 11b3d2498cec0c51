"""Files and directories that are written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs

from perception_encoder.errors import OutputError, one_line


@contextmanager
def writing(path: Path, note: str = "", also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn errors in writing `path` (OSError, and `also`) into a one-line OutputError, with a note."""
    expected: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except expected as error:
        reason = getattr(error, "strerror", None) or one_line(error, first=True)
        raise OutputError(f"{path} could not be written: {reason}" + (f"; {note}" if note else "")) from error


@contextmanager
def replacing(path: Path, temporary: Path | None = None, through_link: bool = True) -> Iterator[Path]:
    """Yield a temporary path for a file or directory; it becomes `path` once it is on the disk, else it is removed.

    `temporary`: on the same disk; by default a hidden one beside `path`, whose directory is made. A link's target is
    replaced, or without `through_link` the link itself, so that a planted link cannot choose what is replaced. Raises
    OutputError if a file would replace a directory, or anything a device.
    """
    path = path.resolve() if path.is_symlink() and through_link else path
    if temporary is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        for entry in [temporary, *temporary.rglob("*")]:
            sync(entry)
        _check_kind(path, temporary.is_dir())
        if path.is_dir():
            shutil.rmtree(path)  # a directory cannot be replaced at one stroke
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        remove(temporary)


def write_text(path: Path, text: str, through_link: bool = True) -> None:
    """Write a file whole or not at all, as `replacing` does; OutputError if that fails."""
    with writing(path), replacing(path, through_link=through_link) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: object, indent: int | None = 2, through_link: bool = True) -> None:
    """Write a value as JSON, as `write_text` does."""
    write_text(path, json.dumps(value, indent=indent) + "\n", through_link)


def _check_kind(path: Path, directory: bool) -> None:
    """Raise OutputError unless `path` is free or of the same kind."""
    if path.is_dir() and not directory:
        raise OutputError(f"{path} is a directory; choose another name")
    if path.exists() and not path.is_dir() and (directory or not path.is_file()):
        raise OutputError(f"{path} is {'a file' if path.is_file() else 'not a regular file'}; choose another name")


@contextmanager
def holding(path: Path, message: str) -> Iterator[None]:
    """Hold a lock file until the block or this process ends; OutputError(message) if another process holds it.

    Its content stays as it is; OutputError if it is a link or not a regular file. On Windows nothing is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError:
        if path.is_symlink():
            raise OutputError(f"{path} is a link, which a lock may not be; remove it") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OutputError(f"{path} is not a regular file, which a lock has to be; remove it")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(message) from None
        yield
    finally:
        os.close(handle)


def restrict(directory: Path, *like: Path) -> None:
    """Remove from a directory and its contents the permissions that not all of `like` have; the owner's stay.

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
    """A directory in the user's cache of this package, which need not exist."""
    return platformdirs.user_cache_path("perception-encoder") / name


def remove(path: Path) -> None:
    """Remove a file or a directory, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a directory's entries, on the disk before going on."""
    if path.is_dir() and os.name == "nt":  # which cannot open a directory
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
