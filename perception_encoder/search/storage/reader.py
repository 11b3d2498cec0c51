"""Find new files of an indexed directory, and read them into rows: one per image, one per moment of a video.

A file of unknown size or time is read, and its digest shows whether it was only moved.

Sampled frames of a video are grouped into windows, which end at a shot change (the colours of the whole image differ
from those of the previous frame) or when they get too long. Similar neighbouring windows are merged, so that a long
take is one moment. Of a closed window, a sum and the most typical frame stay, so that a long video needs little memory.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from perception_encoder.errors import InputError, detached
from perception_encoder.formats.listing import Item, is_listed_type, list_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.pipeline import guess_kind
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.frames import colour_histogram, is_cut
from perception_encoder.preprocess.image import encode_thumbnail, read_header
from perception_encoder.preprocess.media import Media, open_media, resolve
from perception_encoder.preprocess.source import escape_name, open_source
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.preprocess.video_file import creation_time
from perception_encoder.search.storage.database import FileState, IndexRow, names_media, time_modified
from perception_encoder.vectors import unit_rows

Pixels = UInt8[np.ndarray, "3 H W"]
THUMBNAIL_SIDE = 256
"""Longest side of a stored thumbnail, in pixels."""
_HELD = 64 << 20
"""Maximum bytes of a file that is read once, for its hash and to be decoded."""
MAX_WINDOW_SECONDS = 10.0  # of a window
_SIMILARITY = 0.9  # least cosine of neighbouring windows that are merged
_NO_VECTOR = np.empty(0, np.float32)
_hash = partial(hashlib.blake2b, digest_size=16)


@dataclass(frozen=True, kw_only=True)
class File:
    """An image or video in a directory."""

    path: str
    """Printable path relative to the directory."""
    item: Item
    size: int
    modified: int
    taken: str = ""
    """The camera's date, of a file that was read: see `Reader`."""

    def read(self) -> tuple[str, Path | bytes]:
        """Return the hash of the content, and the content, or the path of what is too large to hold.

        Raises InputError if it cannot be read.
        """
        content = self.item.open()
        if isinstance(content, Path):
            with open_source(content, self.item.id) as (stream, _):
                if self.size > _HELD or guess_kind(self.path) == "video":
                    return hashlib.file_digest(cast(BufferedReader, stream), _hash).hexdigest(), content
                content = stream.read()
        return _hash(content).hexdigest(), content

    def media(self, content: Path | bytes) -> Media:
        """Return the file as media, whose content `read` returned; raises InputError."""
        if isinstance(content, Path):
            return self.item.media()
        named = self.item.media() if isinstance(self.item.source, Path) else resolve(content, self.item.name)
        return replace(named, payload=content)


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Differences between a directory and its index."""

    candidates: list[File]
    """Files that are new or have a different size or time."""
    gone: list[str]
    """Paths in the index that no longer exist, or are excluded now."""
    unchanged: int
    failures: list[InputError]
    """Directories that could not be listed; files below them do not count as deleted."""
    left_out: Counter[str]


def find_changes(root: Path, indexed: Mapping[str, FileState], excluded: Sequence[str] = ()) -> Changes:
    """Compare a directory with the files in its index; `excluded`: see `list_items`."""
    candidates: dict[str, File] = {}  # of a tar's members of one name the last counts, as for tar itself
    failures: list[InputError] = []
    listed: set[str] = set()
    left_out: Counter[str] = Counter()
    base = _base(root)
    for path, item in listed_items(root, excluded, left_out):
        try:
            size, status = item.stat()
            if not names_media(path):
                raise InputError(item.id, "has a name that leads out of the directory")
        except InputError as error:
            failures.append(error)
            continue
        state, modified = indexed.get(path), time_modified(status)
        listed.add(path)
        candidates.pop(path, None)
        if state is None or (state.size, state.modified) != (size, modified):
            candidates[path] = File(path=path, item=item, size=size, modified=modified)
    hidden = tuple(f"{failure.source}/".removeprefix(base) for failure in failures)  # all, if it is the directory
    gone = [path for path in indexed if path not in listed and not f"{path}/".startswith(hidden)]
    gone = [path for path in gone if is_listed_type(path)]  # RAW photographs stay where the extra `raw` is missing
    unchanged = len(listed) - len(candidates)
    return Changes(
        candidates=list(candidates.values()), gone=gone, unchanged=unchanged, failures=failures, left_out=left_out
    )


def listed_items(
    root: Path, excluded: Sequence[str], left_out: Counter[str] | None = None
) -> Iterator[tuple[str, Item]]:
    """Yield the images and videos of a directory with their paths in it; see `list_items`."""
    for item in list_items([root.absolute()], left_out, excluded):
        yield item.path.removeprefix(_base(root)), item


def _base(root: Path) -> str:
    return escape_name(root.absolute()).rstrip("/") + "/"


@dataclass(frozen=True)
class FileResult:
    """A file's rows after reading (None if its content is already indexed), or its error."""

    file: File
    digest: str = ""
    rows: list[IndexRow] | None = None
    error: InputError | None = None


def row_id(path: str, start: float | None) -> str:
    """Return the id of a row, which depends only on path and start."""
    return hashlib.blake2b(f"{path}\0{start}".encode(), digest_size=6).hexdigest()


def local_date(modified: int) -> str:
    """Return a file system's time as a row's date; times outside the calendar become 1970."""
    try:
        return datetime.fromtimestamp(modified / 1e9).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00"


def dated(row: IndexRow) -> IndexRow:
    """Return a row of a `Reader` with its date in this machine's time zone, by default that of the file's change."""
    if not row.date:
        return replace(row, date=local_date(row.modified))
    moment = datetime.fromisoformat(row.date)
    return replace(row, date=moment.astimezone().replace(tzinfo=None).isoformat()) if moment.tzinfo else row


def batches(files: Sequence[File], size: int) -> Iterator[list[File]]:
    """Yield `size` images, or one video, at a time."""
    batch: list[File] = []
    for file in files:
        if guess_kind(file.path) == "video":
            yield [file]
        else:
            batch.append(file)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


@dataclass(frozen=True)
class Frame:
    """A sampled frame: `end`, time of the next one; `colours`, see `colour_histogram`; `vector`, of unit length."""

    time: float
    end: float
    colours: Float[np.ndarray, " C"]
    vector: Float[np.ndarray, " D"]
    size: tuple[int, int] = (0, 0)
    thumbnail: bytes = b""
    taken: str = ""


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A stretch of a video, in seconds from its first frame."""

    start: float
    end: float
    best: Frame
    """The frame most similar to the moment, among the most typical frames of its windows."""
    total: Float[np.ndarray, " D"]
    """Sum of the frames' vectors."""

    @property
    def vector(self) -> Float[np.ndarray, " D"]:
        """Mean of the frames' vectors, normalized."""
        return unit_rows(self.total)


def cut_moments(frames: Iterable[Frame]) -> list[Moment]:
    """Return the moments of a video's sampled frames, which come in order."""
    moments: list[Moment] = []
    window: list[Frame] = []
    for frame in frames:
        if window and (is_cut(window[-1].colours, frame.colours) or frame.end - window[0].time > MAX_WINDOW_SECONDS):
            _add_window(moments, window)
            window = []
        window.append(frame)
    if window:
        _add_window(moments, window)
    return moments


def _add_window(moments: list[Moment], window: Sequence[Frame]) -> None:
    total = np.sum([frame.vector for frame in window], axis=0)
    best = max(window, key=lambda frame: float(frame.vector @ total))
    moment = Moment(start=window[0].time, end=window[-1].end, best=best, total=total)
    if moments and float(moments[-1].vector @ moment.vector) >= _SIMILARITY:
        before = moments.pop()
        total = before.total + moment.total
        best = max(before.best, best, key=lambda frame: float(frame.vector @ total))
        moment = Moment(start=before.start, end=moment.end, best=best, total=total)
    moments.append(moment)


class FileReader:
    """Reads files into rows; threads may share one. Files whose digest is in `digests` are not decoded.

    `every`: seconds between the frames of a video. A row's date is the camera's, with an offset from UTC if that is
    known, or empty: see `dated`.
    """

    def __init__(self, encoder: Encoder, every: float, digests: Container[str]) -> None:
        self._encoder, self._every, self._digests = encoder, every, digests
        self._reduced = encoder.reduced_side(encoder.feature())

    def read(self, files: list[File]) -> list[FileResult]:
        """Read a batch and encode its images together."""
        results: dict[int, FileResult] = {}
        images: dict[int, tuple[IndexRow, Pixels]] = {}  # rows without vectors, and the encoder's pixels
        for position, file in enumerate(files):
            digest = ""
            try:
                digest, content = file.read()
                if digest in self._digests:
                    results[position] = FileResult(replace(file, taken=_taken(file.media(content))), digest)
                    continue
                media = file.media(content)
                if media.kind == "video":
                    results[position] = FileResult(file, digest, self._video_rows(file, digest, media))
                else:
                    images[position] = self._image_row(file, digest, media)
            except InputError as error:
                results[position] = FileResult(file, digest, error=detached(error))
        vectors = self._embed(pixels for _, pixels in images.values())
        for (position, (row, _)), vector in zip(images.items(), vectors, strict=True):
            results[position] = FileResult(files[position], row.digest, [replace(row, vector=vector)])
        return [results[position] for position in range(len(files))]

    def _image_row(self, file: File, digest: str, media: Media) -> tuple[IndexRow, Pixels]:
        with DECODING.admission() as admit:
            image = open_media(media, admit=admit, reduce_to=self._reduced)
            assert isinstance(image, Image.Image) and isinstance(media.payload, (Path, bytes))
            header = read_header(media.payload)
            row = _row(file, digest, header.size or image.size, encode_thumbnail(image, THUMBNAIL_SIDE))
            says = {name: getattr(header.taken, name) for name in ("lat", "lon", "camera", "title")}
            return replace(row, date=_date(header.taken.date), **says), self._encoder.transform.pixels(image)

    def _embed(self, pixels: Iterable[Pixels]) -> np.ndarray:
        stacked = list(pixels)
        if not stacked:
            return np.empty((0, self._encoder.dimension), np.float32)
        return np.asarray(self._encoder.embed_pixels(stacked, self._encoder.feature()))

    def _video_rows(self, file: File, digest: str, media: Media) -> list[IndexRow]:
        moments = cut_moments(self._frames(media))
        return [
            replace(
                _row(file, digest, moment.best.size, moment.best.thumbnail),
                id=row_id(file.path, moment.start),
                kind="video",
                date=moment.best.taken,
                start=moment.start,
                stop=moment.end,
                time=moment.best.time,
                length=moments[-1].end,
                vector=moment.vector,
            )
            for moment in moments
        ]

    def _frames(self, media: Media) -> Iterator[Frame]:
        waiting: list[tuple[Frame, Pixels]] = []  # frames without vectors, and the encoder's pixels

        def encoded() -> Iterator[Frame]:
            vectors = self._embed(pixels for _, pixels in waiting)
            for (frame, _), vector in zip(waiting, vectors, strict=True):
                yield replace(frame, vector=vector)
            waiting.clear()

        assert isinstance(media.payload, (Path, bytes))
        near = self._encoder.decoding == "reduced"
        for sampled in sample_frames(media.payload, media.name, self._every, side=self._reduced, near=near):
            image = sampled.image
            small, colours = encode_thumbnail(image, THUMBNAIL_SIDE), colour_histogram(image)
            frame = Frame(sampled.time, sampled.end, colours, _NO_VECTOR, sampled.size, small, _date(sampled.recorded))
            waiting.append((frame, self._encoder.transform.pixels(image)))
            if len(waiting) == self._encoder.batch_size:
                yield from encoded()
        yield from encoded()


def _taken(media: Media) -> str:
    """Return the camera's date, with an offset from UTC if that is known; empty if there is none."""
    assert isinstance(media.payload, (Path, bytes))
    video = media.kind == "video"
    return _date(creation_time(media.payload, media.name) if video else read_header(media.payload).taken.date)


def _date(taken: datetime | None) -> str:
    return taken.isoformat(timespec="seconds") if taken else ""


def _row(file: File, digest: str, size: tuple[int, int], thumbnail: bytes) -> IndexRow:
    return IndexRow(
        id=row_id(file.path, None),
        path=file.path,
        kind="image",
        width=size[0],
        height=size[1],
        date="",
        size=file.size,
        modified=file.modified,
        digest=digest,
        vector=_NO_VECTOR,
        thumbnail=thumbnail,
    )
