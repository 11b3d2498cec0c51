"""Files and folders that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perception_encoder.errors import OutputError


@contextmanager
def writing(path: Path, note: str = "", also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn what goes wrong in writing `path` (OSError, and `also`) into a one-line OutputError, with a note."""
    expected: tuple[type[Exception], ...] = (OSError, *also)
    try:
        yield
    except expected as error:
        reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).splitlines()[0]
        raise OutputError(f"{path} could not be written: {reason}" + (f"; {note}" if note else "")) from error


@contextmanager
def replacing(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path for a file or folder; it becomes `path` once it is whole and on the disk, or goes.

    `temporary`: on the same disk; by default a hidden one beside `path`, whose folder is made. A link stays one: what
    it leads to is replaced. Raises OutputError where a file would replace a folder, or anything a device.
    """
    path = path.resolve() if path.is_symlink() else path
    if temporary is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        for written in [temporary, *temporary.rglob("*")]:
            sync(written)
        _check_kind(path, temporary.is_dir())
        if path.is_dir():
            shutil.rmtree(path)  # a folder cannot be replaced at one stroke
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        remove(temporary)


def _check_kind(path: Path, folder: bool) -> None:
    """Raise OutputError unless `path` is free, or what stands there is of the same kind."""
    if path.is_dir() and not folder:
        raise OutputError(f"{path} is a folder; choose another name")
    if path.exists() and not path.is_dir() and (folder or not path.is_file()):
        raise OutputError(f"{path} is {'a file' if path.is_file() else 'no regular file'}; choose another name")


@contextmanager
def holding(path: Path, taken: str) -> Iterator[None]:
    """Hold a lock file until the block ends, or this process does, however it ends; OutputError(taken) if another does.

    On Windows nothing is held: there, two writers at once are the user's to avoid.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise OutputError(taken) from None
        yield


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Have a file, or a folder's entries, on the disk before going on."""
    if path.is_dir() and os.name == "nt":  # where a folder cannot be opened
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
