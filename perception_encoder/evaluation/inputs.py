"""Images and videos that evaluators encode: opening them, and digests of their content.

An item that cannot be decoded is left out and reported; no other one takes its place.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from PIL import Image

from perception_encoder.datasets.labelled import ImageSet, LabelledImages
from perception_encoder.errors import DataError, InputError, MediaDecodeError, MediaNotFoundError
from perception_encoder.formats.media_directory import Clip, MediaSource, unpacked
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.media import Media, open_media, resolve
from perception_encoder.progress import Track, untracked

T = TypeVar("T")

FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class EncoderInputs:
    """Images or videos to encode together, at one size."""

    name: str
    """Name for progress bars and errors."""
    keys: tuple[str, ...]
    open: Callable[[int], Sequence[Image.Image]]
    """Opens an item: an image or the frames of a video; raises InputError if it cannot be decoded."""
    compute_digest: Callable[[], str]
    """Returns a digest of the images' content; called if features are stored."""
    image_size: tuple[int, int] | None = None
    """Height and width to resize to, multiples of the patch; by default the encoder's."""

    @cached_property
    def digest(self) -> str:
        """Digest of the images' content; stored features are named by it."""
        return self.compute_digest()

    @classmethod
    def of(
        cls,
        name: str,
        images: ImageSet,
        target: Callable[[int], object],
        image_size: tuple[int, int] | None = None,
        track: Track = untracked,
    ) -> EncoderInputs:
        """Return the images of a dataset with usable targets; an InputError of `target` becomes the image's error.

        Targets are decoded once for it, so that failures are known before anything is encoded.
        """
        failures: dict[int, InputError] = {}
        for row in track(range(len(images.keys)), f"reading the targets of {name}", len(images.keys)):
            try:
                target(row)
            except InputError as error:
                failures[row] = error

        def open_row(row: int) -> list[Image.Image]:
            if row in failures:
                raise failures[row]
            return [images.open(row)]

        def digest() -> str:
            return content_digest(images.images) + (f", without {sorted(failures)}" if failures else "")

        return cls(name=name, keys=images.keys, open=open_row, compute_digest=digest, image_size=image_size)


def inputs_of(images: LabelledImages, frames: int = FRAMES) -> EncoderInputs:
    """Return a dataset's images, and its videos by `frames` uniform frames, ready to encode."""
    return EncoderInputs(
        name=images.name,
        keys=images.keys,
        open=lambda row: open_item(images.images[row], images.keys[row], frames, images.trim),
        compute_digest=lambda: settings_digest(content_digest(images.images), images.trim, frames),
    )


def open_item(source: MediaSource, key: str, frames: int, trim: int = 0) -> list[Image.Image]:
    """Open an image or `frames` frames of a video, cropped by `trim` pixels on each side; InputError if it fails."""
    opened = open_media(resolve_source(source, key), frames)
    assert not isinstance(opened, str)
    images = opened.images if isinstance(opened, VideoFrames) else [opened]
    if any(min(image.size) <= 2 * trim for image in images):
        raise InputError(key, f"is too small to crop {trim} pixels from each side")
    return [image.crop((trim, trim, image.width - trim, image.height - trim)) for image in images] if trim else images


def resolve_source(source: MediaSource, name: str) -> Media:
    """Return an item's content by its kind; InputError, with the name, if it cannot be read."""
    if isinstance(source, Clip):
        return resolve(source.path, name, start=source.start, end=source.end)
    return resolve(unpacked(source, name), name)


def decode_ahead(decode: Callable[[int], T], rows: range, ahead: int) -> Iterator[T | InputError]:
    """Decode items in order, `ahead` at a time on all cores; yield the InputError of an item that fails."""

    def attempt(row: int) -> T | InputError:
        try:
            return decode(row)
        except InputError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(rows), ahead):
            yield from pool.map(attempt, rows[start : start + ahead])


def decode_chunks(
    inputs: EncoderInputs, start: int, size: int, track: Track = untracked
) -> Iterator[tuple[int, list[Sequence[Image.Image]], list[tuple[int, InputError]]]]:
    """Decode the items from `start` on, `size` at a time; DataError if there are no inputs.

    Yields the end of each chunk, its opened items, and the errors of the others with their indices.
    """
    if not inputs.keys:
        raise DataError(f"{inputs.name} has no images")
    rows = range(start, len(inputs.keys))
    if not rows:
        return
    opened: list[Sequence[Image.Image]] = []
    failures: list[tuple[int, InputError]] = []
    numbered = zip(rows, decode_ahead(inputs.open, rows, size), strict=True)
    for row, item in track(numbered, f"encoding {inputs.name}", len(rows)):
        if isinstance(item, InputError):
            failures.append((row, item))
        else:
            opened.append(item)
        if (row + 1 - start) % size == 0 or row + 1 == rows.stop:
            yield row + 1, opened, failures
            opened, failures = [], []


def content_digest(sources: Sequence[MediaSource]) -> str:
    """Return a SHA-256 of the content of files and the ranges of clips, in order.

    What cannot be read counts as empty, for it is reported later.
    """
    digest = hashlib.sha256()
    for source in sources:
        content = _read(source)
        digest.update(len(content).to_bytes(8, "little") + content)
        if isinstance(source, Clip):
            digest.update(f"{source.start} {source.end}".encode())
    return digest.hexdigest()[:20]


def _read(source: MediaSource) -> bytes:
    try:
        content = unpacked(source.path if isinstance(source, Clip) else source, "")
        return content.read_bytes() if isinstance(content, Path) else content
    except (OSError, MediaDecodeError, MediaNotFoundError):
        return b""


def settings_digest(*parts: object) -> str:
    """Return the first 20 digits of a SHA-256 of some settings, as they are written."""
    return hashlib.sha256(repr(parts).encode(errors="surrogatepass")).hexdigest()[:20]
