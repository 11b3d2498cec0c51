"""Resolve an input to an image, a video or a text, by its content, and open it."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from perception_encoder.errors import InputError, MediaDecodeError, MediaNotFoundError, one_line
from perception_encoder.preprocess.budget import Admit
from perception_encoder.preprocess.fetch import FetchLimits, fetch, is_url
from perception_encoder.preprocess.frames import FrameChoice, VideoFrames, frame_indices
from perception_encoder.preprocess.image import open_image, plain_image
from perception_encoder.preprocess.source import (
    AVIF_BRANDS,
    HEIF_BRANDS,
    IMAGE_SUFFIXES,
    MEDIA_SUFFIXES,
    VIDEO_SUFFIXES,
    escape_name,
    file_brands,
    is_raw_head,
    open_source,
)

Kind = Literal["image", "video", "text"]

HEAD = 512
"""Number of first bytes that identify a format."""

_RANGE = re.compile(r"(?P<path>.+)@(?P<start>\d+(?:\.\d+)?)s(?:-(?P<end>\d+(?:\.\d+)?)s)?", re.DOTALL)
# fmt: off
_IMAGE_HEADS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+",
    b"\0\0\0\x0cjP  \r\n", b"\xff\x4f\xff\x51",
)
_VIDEO_HEADS = (
    b"\x1aE\xdf\xa3", b"OggS", b"FLV\1", b"0&\xb2u\x8ef\xcf\x11", b"DKIF", b"YUV4MPEG2", b"\x06\x0e+4\2\5\1\1",
    b"\0\0\1\xba", b"\0\0\1\xb3", b"\0\0\0\1\x67", b"\0\0\0\1\x40",
)
_VIDEO_BOXES = (b"moov", b"mdat", b"moof", b"styp", b"wide", b"free", b"skip", b"pnot")
# fmt: on
_TRANSPORT_MARKS = ((0, 188, 376), (4, 196, 388))  # of 0x47 in an MPEG transport stream, without and with timestamps


@dataclass(frozen=True)
class Media:
    """A resolved input: its kind, its name for errors, and its content."""

    kind: Kind
    name: str
    payload: Path | bytes | Image.Image | np.ndarray | str
    start: float | None = None
    """First second of a video to use. Equal to `end` for a moment: one frame."""
    end: float | None = None


def resolve(
    value: object,
    name: str | None = None,
    *,
    kind: Kind | None = None,
    start: float | None = None,
    end: float | None = None,
    limits: FetchLimits | None = None,
) -> Media:
    """Resolve an input by its content, or as `kind`.

    Paths, existing files as strings, URLs (which are fetched), bytes, PIL images and uint8 arrays (H, W), (H, W, 3) and
    (F, H, W, 3) are media; any other string is a text. A video's path may end in a range,
    "clip.mp4@2s-5s", or in a moment, "clip.mp4@12s". Raises MediaNotFoundError (a string that ends in a media suffix
    and does not exist too), MediaDecodeError, and InputError for anything else.
    """
    if kind == "text":
        if not isinstance(value, str):
            raise InputError(name or "input", f"is of type {type(value).__name__}; give a string")
        return _text(value, name)
    if isinstance(value, str) and is_url(value):
        name, value = name or escape_name(value), fetch(value, limits)
    if isinstance(value, str):
        return _resolve_string(value, name, kind, start, end)
    if isinstance(value, Path):
        path, *part = (value, start, end) if start is not None or end is not None else split_range(value)
        return _resolve_file(path, name or escape_name(value), kind, *part)
    if isinstance(value, bytes):
        name = name or "bytes in memory"
        return _checked(Media(kind or _sniffed(value, "", name), name, value, start, end))
    if isinstance(value, Image.Image):
        filename = getattr(value, "filename", "")
        name = name or (escape_name(os.fsdecode(filename)) if filename else "image in memory")
        return _checked(Media("image", name, value, start, end), kind)
    if isinstance(value, np.ndarray):
        return _checked(_resolve_array(value, name or "array", start, end), kind)
    allowed = "a path, a URL, bytes, a PIL image, a uint8 array or a text"
    raise InputError(name or "input", f"is of type {type(value).__name__}; give {allowed}")


def open_media(
    media: Media,
    frames: int = 8,
    admit: Admit | None = None,
    choose: FrameChoice | None = None,
    reduce_to: int | None = None,
    served: bool = False,
) -> Image.Image | VideoFrames | str:
    """Decode resolved media: an upright image, `frames` uniform frames of a video (one of a moment), or the text.

    Raises MediaDecodeError and MediaTooLargeError, named as the input is.

    Args:
        admit: Called with the bytes that a file takes before it is decoded: see `ByteBudget`.
        choose: Another choice of a video file's frames: see `read_frames`.
        reduce_to, served: See `open_image`; frames are reduced to the first.
    """
    payload = media.payload
    if media.kind == "text":
        return str(payload)
    if media.kind == "image":
        if isinstance(payload, (Path, bytes)):
            return open_image(payload, media.name, reduce_to=reduce_to, admit=admit, served=served)
        try:
            return plain_image(payload if isinstance(payload, Image.Image) else Image.fromarray(np.asarray(payload)))
        except (OSError, ValueError, SyntaxError) as error:  # a PIL image may be of a file not read so far
            raise MediaDecodeError(media.name, f"cannot be decoded: {one_line(error)}") from error
    if isinstance(payload, (Path, bytes)):
        from perception_encoder.preprocess.video import read_frames  # FFmpeg, which texts and images do not need

        moment = media.start is not None and media.start == media.end
        return read_frames(
            payload, media.name, 1 if moment else frames, media.start, media.end, admit, choose, reduce_to
        )
    return _sample_array(np.asarray(payload), frames)


def sniff(head: bytes) -> Literal["image", "video"] | None:
    """Return the kind of a file by its first bytes (`HEAD` of them); None if unknown."""
    brands = file_brands(head)
    if is_raw_head(head):
        return "image"
    if brands is not None:
        return "image" if brands & (AVIF_BRANDS | HEIF_BRANDS) else "video"
    if head[:4] == b"RIFF":
        return "image" if head[8:12] == b"WEBP" else "video" if head[8:12] == b"AVI " else None
    if head.startswith(_IMAGE_HEADS) or re.match(rb"P[1-6]\s", head):
        return "image"
    is_stream = any(all(head[mark : mark + 1] == b"G" for mark in marks) for marks in _TRANSPORT_MARKS)
    return "video" if is_stream or head.startswith(_VIDEO_HEADS) or head[4:8] in _VIDEO_BOXES else None


def split_range(path: Path) -> tuple[Path, float | None, float | None]:
    """Split "clip.mp4@2s-5s" (or "@12s", a moment) into path and seconds, unless a file with that exact name exists."""
    match = _RANGE.fullmatch(str(path))
    if match is None or os.path.lexists(path):
        return path, None, None
    start = float(match["start"])
    return Path(match["path"]), start, float(match["end"]) if match["end"] else start


def _resolve_string(value: str, name: str | None, kind: Kind | None, start: float | None, end: float | None) -> Media:
    path, *part = split_range(Path(value))
    named = kind is not None or path.suffix.lower() in MEDIA_SUFFIXES
    if value and os.path.exists(path) and (named or not os.path.isdir(path)):
        start, end = (start, end) if part[0] is None else part
        return _resolve_file(path, name or escape_name(value), kind, start, end)
    if named:
        hint = "" if kind else "; if it is text, use encode_texts"
        raise MediaNotFoundError(name or escape_name(value), f"no such file{hint}")
    return _text(value, name)


def _text(value: str, name: str | None) -> Media:
    return Media("text", name or escape_name(value if len(value) <= 60 else f"{value[:59]}…"), value)


def _resolve_file(path: Path, name: str, kind: Kind | None, start: float | None, end: float | None) -> Media:
    with open_source(path, name) as (stream, _):
        head = stream.read(HEAD)
    return _checked(Media(kind or _sniffed(head, path.suffix, name), name, path, start, end))


def _sniffed(head: bytes, suffix: str, name: str) -> Literal["image", "video"]:
    kind = sniff(head)
    if kind is None:
        suffix = suffix.lower()
        kind = "image" if suffix in IMAGE_SUFFIXES else "video" if suffix in VIDEO_SUFFIXES else None
    if kind is None:
        raise MediaDecodeError(name, "is neither an image nor a video in a supported format")
    return kind


def _checked(media: Media, kind: Kind | None = None) -> Media:
    if kind is not None and kind != media.kind:
        raise InputError(media.name, f"is {_ARTICLED[media.kind]}, not {_ARTICLED[kind]}")
    if media.kind == "image" and (media.start is not None or media.end is not None):
        raise InputError(media.name, "is an image; only a video has a range of time")
    return media


_ARTICLED = {"image": "an image", "video": "a video", "text": "a text"}


def _resolve_array(array: np.ndarray, name: str, start: float | None, end: float | None) -> Media:
    shape = "×".join(map(str, array.shape))
    if array.dtype != np.uint8:
        raise InputError(name, f"is an array of {array.dtype}; give uint8 values, 0 to 255")
    if array.ndim == 2 or (array.ndim in (3, 4) and array.shape[-1] == 3):
        if array.size == 0:
            raise InputError(name, f"is an empty array, {shape}")
        if array.ndim == 4 and (start is not None or end is not None):
            raise InputError(name, "is an array, which has no time in seconds: slice its frames instead")
        return Media("video" if array.ndim == 4 else "image", name, array, start, end)
    raise InputError(name, f"is an array {shape}; give (H, W) or (H, W, 3) for an image, (F, H, W, 3) for a video")


def _sample_array(array: np.ndarray, count: int) -> VideoFrames:
    """Return uniform frames of an array (F, H, W, 3), without known times."""
    indices = frame_indices(len(array), count)
    images = {index: Image.fromarray(array[index]) for index in set(indices)}
    nan = float("nan")
    return VideoFrames([images[index] for index in indices], [nan] * count, nan, len(array), complete=True)
