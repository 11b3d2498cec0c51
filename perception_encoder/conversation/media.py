"""Open the images, videos and documents of a conversation for an assistant.

A video's frames are those that the published PLM reads; a PDF gives an image for each page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.formats.listing import Item, check_paths, list_items
from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.documents import open_pdf_pages
from perception_encoder.preprocess.frames import VideoFrames, plm_frame_indices
from perception_encoder.preprocess.media import HEAD, Media, open_media, resolve
from perception_encoder.preprocess.source import open_source

FRAMES = 8
"""Maximum number of frames of a video."""
Source = Item | bytes | Image.Image | np.ndarray | VideoFrames
"""A listed file, or media in memory."""
Inputs = str | Path | Source | Sequence[str | Path | Source]


def read_pages(pages: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Parse page numbers such as "1-3,7"; ConfigError for anything else."""
    if pages is None or not isinstance(pages, str):
        return None if pages is None else tuple(pages)
    numbers: list[int] = []
    for part in pages.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", part.strip())
        if not match or not 0 < int(match[1]) <= int(match[2] or match[1]):
            raise ConfigError(f"pages is {pages!r}; it must be pages from 1, such as 1-3,7")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return tuple(numbers)


def list_inputs(media: Inputs) -> Iterator[Source]:
    """Yield the items of paths and URLs, and others unchanged; MediaNotFoundError for a missing path."""
    inputs: Sequence[Any] = media if isinstance(media, (list, tuple)) else [media]
    check_paths([value for value in inputs if isinstance(value, (str, Path))])
    for value in inputs:
        if isinstance(value, (str, Path)):
            yield from list_items([value])
        else:
            yield value


def input_name(source: Source) -> str:
    """Return an input's name in results and errors."""
    if isinstance(source, Item):
        return source.name
    if isinstance(source, bytes):
        return "bytes in memory"
    return "video in memory" if isinstance(source, VideoFrames) else resolve(source).name


def open_input(
    source: Source,
    *,
    frames: int = FRAMES,
    start: float | None = None,
    end: float | None = None,
    pages: Sequence[int] | None = None,
    tile: int = 448,
    tiles: int = 4,
) -> list[MediaPart]:
    """Open a listed file or media in memory: an RGB image, a video's frames, or an RGB image per page of a PDF.

    Raises InputError, and MissingExtraError for a PDF without pypdfium2.

    Args:
        start, end: Seconds of a video whose name has no range.
        pages: From 1, rendered to fill `tiles` of `tile` pixels; by default the first `documents.PAGES`.
    """
    content: Source | Path = source
    if isinstance(source, VideoFrames):
        return [source]
    if isinstance(source, Image.Image) and source.mode == "RGB" and not source.getexif():
        return [source]  # the object stays the same, so that it is encoded once
    if isinstance(source, Item):
        content = source.open()
        if source.start is not None or source.end is not None:
            start, end = source.start, source.end
    if not isinstance(content, (bytes, Path)):
        return [open_part(resolve(content), frames)]
    name = input_name(source)
    with open_source(content, name) as (stream, _):
        head = stream.read(HEAD)
    if b"%PDF-" in head:  # maybe after a few other bytes
        return list(open_pdf_pages(content, name, pages, tile, tiles))
    media = resolve(content, name)
    if media.kind == "video":
        media = replace(media, start=start, end=end)
    return [open_part(media, frames)]


def open_part(media: Media, frames: int = FRAMES) -> MediaPart:
    """Open a resolved image (RGB) or at most `frames` frames of a resolved video; InputError for a text."""
    opened = open_media(media, frames, choose=plm_frame_indices)
    if isinstance(opened, str):
        raise InputError(media.name, "is text, not an image or a video")
    return opened.convert("RGB") if isinstance(opened, Image.Image) else opened
