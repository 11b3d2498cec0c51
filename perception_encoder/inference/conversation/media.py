"""Open the images, videos and documents of a conversation, as a model that answers reads them.

A video's frames are those that the published PLM reads; a PDF gives an image for each page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from perception_encoder.errors import InputError
from perception_encoder.inference.fetch import FetchLimits
from perception_encoder.inference.listing import Item
from perception_encoder.inference.media import HEAD, Media, open_media, resolve
from perception_encoder.preprocess.conversation import MediaPart
from perception_encoder.preprocess.documents import is_pdf, open_pdf_pages
from perception_encoder.preprocess.frames import plm_frame_indices
from perception_encoder.preprocess.source import open_source

FRAMES = 8
"""Frames of a video."""


@dataclass(frozen=True, kw_only=True)
class MediaOptions:
    """How the media of a conversation are opened."""

    frames: int = FRAMES
    """Most frames of a video."""
    start: float | None = None
    """First second of a video whose name has no range of its own."""
    end: float | None = None
    """Last second of such a video."""
    pages: tuple[int, ...] | None = None
    """Pages of a PDF, from 1; by default the first `documents.PAGES`."""
    tile: int = 448
    """Side of the model's tiles, in pixels; a page is rendered to fill its tiles."""
    tiles: int = 4
    """Most tiles of an image."""
    limits: FetchLimits | None = None
    """What a download may cost."""


def open_content(content: Path | bytes, name: str, options: MediaOptions | None = None) -> list[MediaPart]:
    """Open a file or its bytes for a conversation: an RGB image, a video's frames, or an RGB image for each PDF page.

    Raises InputError under `name`, and MissingExtraError for a PDF without pypdfium2.
    """
    options = options or MediaOptions()
    if is_pdf(_head(content, name)):
        return list(open_pdf_pages(content, name, options.pages, options.tile, options.tiles))
    media = resolve(content, name)
    if media.kind == "video":
        media = replace(media, start=options.start, end=options.end)
    return [open_part(media, options.frames)]


def open_item_media(item: Item, options: MediaOptions | None = None) -> list[MediaPart]:
    """Open an item of `list_items`, its own part of a video: see `open_content`; InputError for a text."""
    options = options or MediaOptions()
    if item.start is not None or item.end is not None:
        options = replace(options, start=item.start, end=item.end)
    return open_content(item.open(options.limits), item.name, options)


def open_part(media: Media, frames: int = FRAMES) -> MediaPart:
    """Open a resolved image (RGB) or at most `frames` frames of a resolved video; InputError for a text."""
    opened = open_media(media, frames, choose=plm_frame_indices)
    if isinstance(opened, str):
        raise InputError(media.name, "is a text, not an image or a video")
    return opened.convert("RGB") if isinstance(opened, Image.Image) else opened


def _head(content: Path | bytes, name: str) -> bytes:
    if isinstance(content, bytes):
        return content[:HEAD]
    with open_source(content, name) as (stream, _):
        return stream.read(HEAD)
