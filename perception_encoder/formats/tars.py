"""Find the bytes of each member of a plain tar, and detect damage.

`tarfile` stops silently at an unreadable header and trusts every size. Here a tar must end with an end-of-archive
block, and each member must lie within the file.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from perception_encoder.errors import DataError, MediaDecodeError, one_line
from perception_encoder.files import open_regular
from perception_encoder.preprocess.source import escape_name, open_source

MOST_BYTES = 1 << 30
"""Maximum size of a member, which must fit into memory."""
_HEADER_BYTES = 1 << 20
"""Exceeds the size of any header, including long names."""
_PADDING_BYTES = 64 << 20
"""Zeros allowed after the end of an archive; tar pads its last record, of 10 KiB by default."""
_DAMAGE = (tarfile.TarError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, MemoryError)
"""Exceptions of tarfile for a damaged header; storage errors pass through."""


@dataclass(frozen=True)
class TarEntry:
    """A file inside a tar."""

    name: str
    offset: int
    """Position of its first byte in the tar."""
    size: int
    sparse: bool
    """Stored without its zeros, so its bytes are not contiguous."""
    other: str = ""
    """The member's kind if it has no bytes: a link or a device."""

    @property
    def problem(self) -> str | None:
        """Why the member cannot be read, or None."""
        if self.other:
            return f"is {self.other}; recreate the tar with --dereference"
        if self.sparse:
            return "is stored sparse; recreate the tar without --sparse"
        if self.size > MOST_BYTES:
            return f"has {self.size:,} bytes; at most {MOST_BYTES:,} are read from a tar: unpack it"
        return None


@dataclass(frozen=True)
class TarMember:
    """The location of a file's bytes in a tar."""

    tar: Path
    offset: int
    size: int

    def read(self, name: str) -> bytes:
        """Return its bytes; MediaDecodeError if the tar ends too early."""
        with open_source(self.tar) as (stream, _):
            stream.seek(self.offset)
            data = stream.read(self.size)
        if len(data) < self.size:
            raise MediaDecodeError(name, "is cut off: the archive ends early")
        return data


class _Headers:
    """A stream for tarfile that returns at most one header at a time, whatever a header claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._read = stream.seek, stream.tell, stream.read

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._read(size)


def walk_tar(stream: BinaryIO, size: int) -> Iterator[TarEntry]:
    """Yield the files of a plain tar of `size` bytes, in order; only directories are skipped.

    A member of an unknown type is a file, as POSIX has it; a link or a device is an entry with a problem. Raises
    DataError, after the members before it, if the tar is damaged: it says at which byte, and what is wrong.
    """
    try:
        tar = tarfile.TarFile(fileobj=_Headers(stream))  # type: ignore[arg-type]  # it needs no more than this
    except _DAMAGE as error:
        raise DataError(one_line(error) if not size else f"damaged at byte 0: {one_line(error)}") from error
    while (member := _next(tar)) is not None:
        tar.members = []  # type: ignore[attr-defined]  # it would keep them all
        sparse, rest = member.issparse(), max(0, size - member.offset_data)
        is_file = member.isreg() or member.type not in tarfile.SUPPORTED_TYPES
        beyond = (is_file and not sparse and member.size > rest) or tar.offset >= size + tarfile.BLOCKSIZE
        if beyond or member.size < 0:
            raise DataError(
                f"damaged at byte {member.offset:,}: a member of {member.size:,} bytes, but {rest:,} follow; "
                f"it and what comes after it are lost: {escape_name(member.name)[:80]}"
            )
        if is_file:
            yield TarEntry(member.name, member.offset_data, member.size, sparse)
        elif not member.isdir():
            other = f"a link to {escape_name(member.linkname)[:80]}" if member.issym() or member.islnk() else "a device"
            yield TarEntry(member.name, member.offset_data, 0, False, other)
    _check_end(stream, tar.offset, size)


@contextmanager
def open_tar(path: Path) -> Iterator[tuple[BinaryIO, Iterator[TarEntry]]]:
    """Open a tar on disk and walk it with `walk_tar`; an OSError or DataError in the block is given the tar's name."""
    try:
        with open(open_regular(path, writable=False, follow=True), "rb") as stream:
            yield stream, walk_tar(stream, os.fstat(stream.fileno()).st_size)
    except (OSError, DataError) as error:
        raise DataError(f"{path}: not a readable tar file ({one_line(error)})") from error


def check_entry(entry: TarEntry) -> None:
    """Raise DataError, naming the member, if it cannot be read."""
    if entry.problem:
        raise DataError(f"{escape_name(entry.name)} {entry.problem}")


def read_entry(stream: BinaryIO, entry: TarEntry) -> bytes:
    """Read a member's bytes; DataError, naming the member, if that fails."""
    check_entry(entry)
    stream.seek(entry.offset)
    data = stream.read(entry.size)
    if len(data) < entry.size:
        raise DataError(f"{escape_name(entry.name)} is cut off: the archive ends early")
    return data


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    try:
        return tar.next()
    except _DAMAGE as error:
        message = f"damaged at byte {tar.offset:,}: {one_line(error)}; what comes after it is lost"
        raise DataError(message) from error


def _check_end(stream: BinaryIO, end: int, size: int) -> None:
    """Raise DataError unless at least one block of zeros, and nothing else, follows byte `end`."""
    if size - end < tarfile.BLOCKSIZE:
        raise DataError(f"cut off at byte {size:,}: the end-of-archive block is missing, and so may be members")
    if size - end > _PADDING_BYTES:
        raise DataError(f"damaged at byte {end:,}: the archive ends there, but {size - end:,} bytes follow")
    stream.seek(end)
    at = end
    while piece := stream.read(1 << 16):
        if content := piece.lstrip(b"\0"):
            at += len(piece) - len(content)
            wrong = "not a header" if at < end + tarfile.BLOCKSIZE else "content after the end of the archive"
            raise DataError(f"damaged at byte {at:,}: {wrong}; what comes after it is lost")
        at += len(piece)
