"""Bring a folder's index up to date: what is new is encoded, what moved is carried over, what is gone is removed.

Every core takes whole batches, from the file to its rows, as the embedding pipeline does. Rows are committed now and
then, whole files at a time, so that a killed run goes on where it was.
"""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perception_encoder.errors import InputError, SearchIndexError
from perception_encoder.inference.encoder import Encoder, load
from perception_encoder.inference.media import Media, open_media
from perception_encoder.inference.pipeline import detached, guess_kind, map_in_order, worker_count
from perception_encoder.models.registry import portable_name
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.image import date_taken
from perception_encoder.preprocess.video import SampledFrame, sample_frames
from perception_encoder.search.index.changes import File, find_changes
from perception_encoder.search.index.home import make_home
from perception_encoder.search.index.index import FOLDER, Index
from perception_encoder.search.index.moments import Frame, MomentConfig, MomentCutter, colour_histogram
from perception_encoder.search.index.rows import Row, among
from perception_encoder.search.index.settings import salvage_settings
from perception_encoder.search.query.calibration import renew_calibration
from perception_encoder.search.web.pages import thumbnail

THUMBNAIL_SIDE = 256
"""Longest side of a stored thumbnail, in pixels."""
_COMMIT_SECONDS, _COMMIT_ROWS = 15.0, 4096  # the work that a kill may cost
_FIRST_COMMIT_SECONDS = 1.0  # doubled at each commit up to the above, so that a page soon has something to show


@dataclass(kw_only=True)
class Report:
    """What an update did, in files."""

    added: int = 0
    """Encoded: new, or with other content than before."""
    moved: int = 0
    """Known by their content under another name."""
    gone: int = 0
    unchanged: int = 0
    rows: int = 0
    """In the index, after the update."""
    failures: list[InputError] = field(default_factory=list)


@contextmanager
def writable_index(
    folder: Path,
    source: str | None = None,
    every: float | None = None,
    rebuild: bool = False,
    home: Path | None = None,
    default: Callable[[], str] = lambda: "builtin",
) -> Iterator[tuple[Index, Encoder]]:
    """A folder's index, held for writing, and the encoder of its vectors; a new index where there is none.

    `source`: the model, by name or path; by default the index's own, or that of a new index, `default()`. `every`:
    seconds between the frames of a video. `rebuild` starts anew, by the model and rate of the index that was there, if
    its settings can be read. `home`: the directory that holds the index, by
    default the folder itself. Raises OutputError, SearchIndexError (a damaged index, or one of another model, rate or
    folder), and what `load` raises.
    """
    root, folder = make_home(folder, home)
    with Index.for_writing(folder):
        index = None if rebuild or not Index.exists(folder) else Index.open(folder, whole=True)
        before = salvage_settings(folder / FOLDER) or {}
        if index is not None and source is not None:
            index.check_name(source)
        chosen = portable_name(source or before.get("source") or default())
        encoder = load(chosen)
        settings = encoder.describe(encoder.feature())
        if index is None:
            rates = before.get("moments", {})
            config = MomentConfig(every=every or rates.get("every") or MomentConfig.every)
            elsewhere = {} if root == folder else {"root": str(root)}
            told = {**settings, **elsewhere, "source": chosen, "moments": asdict(config)}
            index = Index.create(folder, told)
        index.check(settings, source)
        if every not in (None, index.settings["moments"]["every"]):
            raise SearchIndexError(
                f"the index of {folder} has a frame every {index.settings['moments']['every']:g} s, not {every:g}; "
                f"make it anew with: pe index --rebuild --every {every:g} {shlex.quote(str(folder))}"
            )
        yield index, encoder


@dataclass(frozen=True)
class Result:
    """A file that was read: its rows, None where its content is known already, or why there are none."""

    file: File
    digest: str = ""
    rows: list[Row] | None = None
    error: InputError | None = None


def read_here(index: Index, encoder: Encoder, digests: set[str], files: Sequence[File]) -> Iterator[list[Result]]:
    """What files hold, a list a batch, read by the cores of this machine.

    `digests`: contents that are known already, so that only their name is new.
    """
    reader = Reader(encoder, MomentConfig(**index.settings["moments"]), digests)
    return map_in_order(reader.read, batches(files, encoder.batch_size), worker_count(encoder))


def update_index(
    index: Index,
    encoder: Encoder,
    begin: Callable[[int], Callable[[int], object]] = lambda _: lambda _: None,
    read: Callable[[Index, Encoder, set[str], Sequence[File]], Iterable[list[Result]]] = read_here,
) -> Report:
    """Make an index say what its folder holds; bad files are reported, never a reason to stop.

    `index` and `encoder` are those of `writable_index`. `begin` is told how many files there are to read, and gives
    what is told of files done. `read`: who reads them, such as `on_cluster`. Raises OutputError where the index cannot
    be written, and what `read` raises: what was committed stays.
    """
    known = index.files()
    changes = find_changes(index.root, known)
    report = Report(gone=len(changes.gone), unchanged=changes.unchanged, failures=list(changes.failures))
    digests = {state.digest for state in known.values()}
    if changes.candidates or changes.gone:
        index.begin()
    pending = _Pending(index, set(known), report)
    advance = begin(len(changes.candidates))
    files = changes.candidates
    try:
        while files:
            for results in read(index, encoder, digests, files):
                pending.take(results)
                advance(len(results))
            files, digests = pending.commit(), set()
    finally:
        pending.commit()
    index.remove(changes.gone)
    index.finish()
    renew_calibration(index, encoder)
    report.rows = len(index)
    return report


class _Pending:
    """Results on their way into the index; now and then they are committed."""

    def __init__(self, index: Index, known: set[str], report: Report) -> None:
        self._index, self._known, self._report = index, known, report
        self._rows: list[Row] = []
        self._moved: dict[str, list[File]] = {}  # by digest
        self._stale: set[str] = set()  # paths whose old rows go
        self._lost: list[File] = []
        self._since, self._interval = time.monotonic(), _FIRST_COMMIT_SECONDS

    def take(self, results: Sequence[Result]) -> None:
        """Note results."""
        for result in results:
            if result.error is not None:
                self._report.failures.append(result.error)
                if result.digest:  # its content is another, and nothing that can be shown
                    self._stale.add(result.file.path)
            elif result.rows is None:
                self._moved.setdefault(result.digest, []).append(result.file)
            else:
                self._report.added += 1
                self._rows += result.rows
                self._stale.add(result.file.path)
        waiting = len(self._rows) + 8 * sum(map(len, self._moved.values()))
        if time.monotonic() - self._since > min(self._interval, _COMMIT_SECONDS) or waiting > _COMMIT_ROWS:
            self._interval *= 2
            self._commit()

    def commit(self) -> list[File]:
        """Write what is there; returns files whose content the index had, but lost to another commit before this."""
        self._commit()
        lost, self._lost = self._lost, []
        return lost

    def _commit(self) -> None:
        if self._moved:
            self._carry_over()
        rows, stale = self._rows, self._stale & self._known
        self._rows, self._moved, self._stale, self._since = [], {}, set(), time.monotonic()
        self._index.replace(stale, rows)

    def _carry_over(self) -> None:
        """Turn the rows of contents that moved into rows of the files where they are now."""
        carried = self._index.rows(among("digest", self._moved), thumbnails=True)
        first: dict[str, str] = {}
        for row in carried:  # of a content that the index has under several names, one name's rows
            first.setdefault(row.digest, row.path)
        originals = [row for row in carried if first[row.digest] == row.path]
        self._rows += [_renamed(row, file) for row in originals for file in self._moved[row.digest]]
        for digest, files in self._moved.items():
            if digest in first:
                self._report.moved += len(files)
                self._stale |= {file.path for file in files}
            else:
                self._lost += files


def _renamed(row: Row, file: File) -> Row:
    date = row.date if row.date != local_date(row.modified) else local_date(file.modified)  # the camera's stays
    row = replace(row, id=_row_id(file.path, row.start), path=file.path, date=date)
    return replace(row, size=file.size, modified=file.modified)


def _row_id(path: str, start: float | None) -> str:
    return hashlib.blake2b(f"{path}\0{start}".encode(), digest_size=6).hexdigest()


def local_date(modified: int) -> str:
    """A file system's time as a row's date; those of no calendar are 1970."""
    try:
        return datetime.fromtimestamp(modified / 1e9).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00"


def batches(files: Sequence[File], size: int) -> Iterator[list[File]]:
    """Some pictures, or one video, at a time."""
    batch: list[File] = []
    for file in files:
        if guess_kind(file.path) == "video":
            yield [file]
            continue
        batch.append(file)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class Reader:
    """From files to rows; threads share one."""

    def __init__(self, encoder: Encoder, config: MomentConfig, digests: Container[str]) -> None:
        self._encoder, self._config, self._digests = encoder, config, digests

    def read(self, files: list[File]) -> list[Result]:
        """Read a batch; its pictures are encoded together."""
        results: dict[int, Result] = {}
        pictures: dict[int, tuple[Row, Tensor]] = {}  # rows without vectors, and what the encoder is given
        for position, file in enumerate(files):
            digest = ""
            try:
                digest = file.digest()
                if digest in self._digests:
                    results[position] = Result(file, digest)
                    continue
                media = file.item.media()
                if media.kind == "video":
                    results[position] = Result(file, digest, self._video_rows(file, digest, media))
                else:
                    pictures[position] = self._picture_row(file, digest, media)
            except InputError as error:
                results[position] = Result(file, digest, error=detached(error))
        vectors = self._embed(pixels for _, pixels in pictures.values())
        for (position, (row, _)), vector in zip(pictures.items(), vectors, strict=True):
            results[position] = Result(files[position], row.digest, [replace(row, vector=vector)])
        return [results[position] for position in range(len(files))]

    def _picture_row(self, file: File, digest: str, media: Media) -> tuple[Row, Tensor]:
        with DECODING.admission() as admit:
            image = open_media(media, admit=admit)
            assert isinstance(image, Image.Image) and isinstance(media.payload, (Path, bytes))
            row, taken = _row(file, digest, image, thumbnail(image, THUMBNAIL_SIDE)), date_taken(media.payload)
            row = replace(row, date=taken.isoformat(timespec="seconds")) if taken else row
            return row, self._encoder.transform.pixels(image)

    def _embed(self, pixels: Iterable[Tensor]) -> np.ndarray:
        stacked = list(pixels)
        if not stacked:
            return np.empty((0, self._encoder.dimension), np.float32)
        return self._encoder.embed_pixels(torch.stack(stacked), self._encoder.feature()).numpy()

    def _video_rows(self, file: File, digest: str, media: Media) -> list[Row]:
        cutter = MomentCutter(self._config)
        waiting: list[tuple[Frame, Tensor]] = []  # without vectors, and what the encoder is given

        def see() -> None:
            vectors = self._embed(pixels for _, pixels in waiting)
            for (frame, _), vector in zip(waiting, vectors, strict=True):
                cutter.add(replace(frame, vector=vector))
            waiting.clear()

        assert isinstance(media.payload, (Path, bytes))
        for frame in sample_frames(media.payload, media.name, self._config.every):
            waiting.append((_without_vector(frame), self._encoder.transform.pixels(frame.image)))
            last = frame
            if len(waiting) == self._encoder.batch_size:
                see()
        see()
        rows = []
        for moment in cutter.finish():
            row = _row(file, digest, last.image, moment.best.thumbnail)
            row = replace(row, id=_row_id(file.path, moment.start), kind="video", length=last.end)
            row = replace(row, start=moment.start, stop=moment.end, time=moment.best.time)
            rows.append(replace(row, vector=moment.vector))
        return rows


def _without_vector(frame: SampledFrame) -> Frame:
    """What is known of a frame before it is encoded."""
    small, colours = thumbnail(frame.image, THUMBNAIL_SIDE), colour_histogram(frame.image)
    return Frame(time=frame.time, end=frame.end, colours=colours, vector=np.empty(0, np.float32), thumbnail=small)


def _row(file: File, digest: str, image: Image.Image, small: bytes) -> Row:
    """What is known of a picture, or of a video by one of its frames, before it is encoded."""
    return Row(
        id=_row_id(file.path, None),
        path=file.path,
        kind="image",
        start=None,
        stop=None,
        time=None,
        length=None,
        width=image.width,
        height=image.height,
        date=local_date(file.modified),
        size=file.size,
        modified=file.modified,
        digest=digest,
        vector=np.empty(0, np.float32),
        thumbnail=small,
    )
