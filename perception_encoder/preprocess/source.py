"""Identify and open images and videos: suffixes, and files, bytes or streams with typed errors and a printable name."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from perception_encoder.errors import InputError, MediaDecodeError, MediaNotFoundError

Source = Path | bytes | BinaryIO

# fmt: off
RAW_SUFFIXES = frozenset({".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf", ".rw2"})
"""Photographs as the sensor recorded them; reading them needs the extra `raw`."""
IMAGE_SUFFIXES = RAW_SUFFIXES | frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".heic", ".heif", ".hif",
    ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".tif", ".tiff", ".bmp", ".dib", ".ppm", ".pgm",
    ".pbm", ".pnm",
})
VIDEO_SUFFIXES = frozenset({
    ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".ts", ".mpg",
    ".mpeg", ".m2v", ".vob", ".flv", ".f4v", ".ogv", ".wmv", ".asf", ".mxf", ".ivf", ".y4m", ".h264", ".h265", ".hevc",
})
# fmt: on
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES
TABLE_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl", ".ndjson"})
SHARD_IMAGES = ("jpg", "jpeg", "png", "webp")
"""Extensions of images in shards that any WebDataset reader decodes; the first one in a sample counts."""
SHARD_VIDEOS = ("mp4", "webm", "mov", "mkv", "avi")
AVIF_BRANDS = frozenset({b"avif", b"avis"})
RAW_BRANDS = frozenset({b"crx "})
_RAW_HEADS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # RAF, ORF, RW2
HEIF_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})

_UNPRINTABLE = re.compile(r"[\\\x00-\x1f\x7f\u2028\u2029\ud800-\udfff]")
_ESCAPED = re.compile(r"\\\\|\\x([0-9a-f]{2})|\\u([0-9a-f]{4})")


def is_transport_stream(start: bytes) -> bool:
    """Return whether a .ts file begins as an MPEG transport stream, whose packets start with a G, or is TypeScript."""
    return start[:1] == b"G" == start[188:189]


def as_paths(paths: str | Path | Iterable[str | Path]) -> list[str | Path]:
    """Return a path, or several, as a list; InputError for anything else, such as an image's bytes."""
    whole = isinstance(paths, str | Path | bytes | io.IOBase) or not isinstance(paths, Iterable)
    found: list[str | Path] = [paths] if whole else list(paths)  # type: ignore[list-item, arg-type]
    for path in found:
        if not isinstance(path, str | Path):
            raise InputError("input", f"is of type {type(path).__name__}; give paths")
    return found


@contextmanager
def open_source(source: Source, name: str | None = None) -> Iterator[tuple[BinaryIO, str]]:
    """Open a source for reading and name it; files are closed at the end, streams stay open.

    Raises MediaNotFoundError for a missing file, and MediaDecodeError if it is not a regular file (a directory, say),
    is empty, or may not be read.
    """
    if isinstance(source, Path):
        name = name or escape_name(source)
        with _open_file(source, name) as stream:
            yield stream, name
        return
    name = name or "an image or video in memory"
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    if stream.seek(0, io.SEEK_END) == 0:
        raise MediaDecodeError(name, "is empty")
    stream.seek(0)
    yield stream, name


def _open_file(path: Path, name: str) -> BinaryIO:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise MediaDecodeError(name, "is a directory")
        if not stat.S_ISREG(status.st_mode):  # opening a pipe could block forever
            raise MediaDecodeError(name, "is not a regular file")
        if status.st_size == 0:
            raise MediaDecodeError(name, "is empty")
        return path.open("rb")
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in the name
        raise MediaNotFoundError(name, "no such file") from None
    except OSError as error:
        raise MediaDecodeError(name, f"cannot be read: {error.strerror or error}") from None


def escape_name(path: str | os.PathLike[str]) -> str:
    r"""Return a path as printable text: control characters and bytes that are not UTF-8 become \xNN.

    Reversible (`unescape_name`): a backslash is doubled; on Windows, where it is the separator, it becomes a slash.
    """
    text = Path(path).as_posix() if os.name == "nt" else os.fspath(path)
    return _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if character == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # how Python holds a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}"


def unescape_name(name: str) -> str:
    """Return the path that `escape_name` turned into `name`."""
    return _ESCAPED.sub(_unescape, name)


def _unescape(match: re.Match[str]) -> str:
    if match[1]:
        code = int(match[1], 16)
        return chr(code if code < 0x80 else 0xDC00 + code)
    return chr(int(match[2], 16)) if match[2] else "\\"


def file_brands(head: bytes) -> set[bytes] | None:
    """Return the brands in the first bytes of an MP4-like file (video, AVIF, HEIC); None for other files."""
    if head[4:8] != b"ftyp":
        return None
    size = min(len(head), int.from_bytes(head[:4], "big"))
    return {head[start : start + 4] for start in range(8, size, 4)}


def is_raw_head(head: bytes) -> bool:
    """Return whether a file's first bytes are those of a RAW photograph: RAF, ORF, RW2, CR2 or CR3."""
    canon = head[:4] in (b"II*\0", b"MM\0*") and head[8:10] == b"CR"
    return canon or head.startswith(_RAW_HEADS) or bool((file_brands(head) or set()) & RAW_BRANDS)


def is_heif(head: bytes) -> bool:
    """Return whether a file's first bytes are HEIC's or HEIF's, but not AVIF's, which shares some brands."""
    brands = file_brands(head) or set()
    return bool(brands & HEIF_BRANDS) and not brands & AVIF_BRANDS
