"""Read files into rows of an index: a batch of images together, a video as moments."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from perception_encoder.errors import InputError, detached
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.media import Media, open_media
from perception_encoder.inference.pipeline import guess_kind
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.image import date_taken, encode_thumbnail
from perception_encoder.preprocess.shot_changes import colour_histogram
from perception_encoder.preprocess.video import sample_frames
from perception_encoder.search.index.changes import File
from perception_encoder.search.index.moments import Frame, MomentConfig, MomentCutter
from perception_encoder.search.index.rows import IndexRow

THUMBNAIL_SIDE = 256
"""Longest side of a stored thumbnail, in pixels."""
_NO_VECTOR = np.empty(0, np.float32)


@dataclass(frozen=True)
class FileResult:
    """A file after reading: its rows (None if the index knows its content), or the error."""

    file: File
    digest: str = ""
    rows: list[IndexRow] | None = None
    error: InputError | None = None


def row_id(path: str, start: float | None) -> str:
    """Return the id of a row: the same for the same path and start."""
    return hashlib.blake2b(f"{path}\0{start}".encode(), digest_size=6).hexdigest()


def local_date(modified: int) -> str:
    """Return a file system's time as a row's date; times outside the calendar become 1970."""
    try:
        return datetime.fromtimestamp(modified / 1e9).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return "1970-01-01T00:00:00"


def batches(files: Sequence[File], size: int) -> Iterator[list[File]]:
    """Yield `size` images, or one video, at a time."""
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
    """Reads files into rows; threads may share one. Files whose digest is in `digests` are not decoded."""

    def __init__(self, encoder: Encoder, config: MomentConfig, digests: Container[str]) -> None:
        self._encoder, self._config, self._digests = encoder, config, digests

    def read(self, files: list[File]) -> list[FileResult]:
        """Read a batch; its images are encoded together."""
        results: dict[int, FileResult] = {}
        images: dict[int, tuple[IndexRow, Tensor]] = {}  # rows without vectors, and the encoder's pixels
        for position, file in enumerate(files):
            digest = ""
            try:
                digest = file.digest()
                if digest in self._digests:
                    results[position] = FileResult(file, digest)
                    continue
                media = file.item.media()
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

    def _image_row(self, file: File, digest: str, media: Media) -> tuple[IndexRow, Tensor]:
        with DECODING.admission() as admit:
            image = open_media(media, admit=admit)
            assert isinstance(image, Image.Image) and isinstance(media.payload, (Path, bytes))
            row, date = _row(file, digest, image, encode_thumbnail(image, THUMBNAIL_SIDE)), date_taken(media.payload)
            row = replace(row, date=date.isoformat(timespec="seconds")) if date else row
            return row, self._encoder.transform.pixels(image)

    def _embed(self, pixels: Iterable[Tensor]) -> np.ndarray:
        stacked = list(pixels)
        if not stacked:
            return np.empty((0, self._encoder.dimension), np.float32)
        return self._encoder.embed_pixels(torch.stack(stacked), self._encoder.feature()).numpy()

    def _video_rows(self, file: File, digest: str, media: Media) -> list[IndexRow]:
        cutter = MomentCutter(self._config)
        waiting: list[tuple[Frame, Tensor]] = []  # frames without vectors, and the encoder's pixels

        def encode_waiting() -> None:
            vectors = self._embed(pixels for _, pixels in waiting)
            for (frame, _), vector in zip(waiting, vectors, strict=True):
                cutter.add(replace(frame, vector=vector))
            waiting.clear()

        assert isinstance(media.payload, (Path, bytes))
        for sampled in sample_frames(media.payload, media.name, self._config.every):
            image = sampled.image
            small, colours = encode_thumbnail(image, THUMBNAIL_SIDE), colour_histogram(image)
            frame = Frame(time=sampled.time, end=sampled.end, colours=colours, vector=_NO_VECTOR, thumbnail=small)
            waiting.append((frame, self._encoder.transform.pixels(image)))
            if len(waiting) == self._encoder.batch_size:
                encode_waiting()
        encode_waiting()
        return [
            replace(
                _row(file, digest, image, moment.best.thumbnail),
                id=row_id(file.path, moment.start),
                kind="video",
                start=moment.start,
                stop=moment.end,
                time=moment.best.time,
                length=sampled.end,
                vector=moment.vector,
            )
            for moment in cutter.finish()
        ]


def _row(file: File, digest: str, image: Image.Image, thumbnail: bytes) -> IndexRow:
    """Return an image's row without its vector."""
    return IndexRow(
        id=row_id(file.path, None),
        path=file.path,
        kind="image",
        width=image.width,
        height=image.height,
        date=local_date(file.modified),
        size=file.size,
        modified=file.modified,
        digest=digest,
        vector=_NO_VECTOR,
        thumbnail=thumbnail,
    )
