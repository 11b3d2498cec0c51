"""Open and write video files with FFmpeg.

Only containers that refer to nothing else on this machine are opened. What is written is H.264 in MP4.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, cast

import av
import av.error
import numpy as np
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from perception_encoder.errors import ConfigError, InputError, MediaDecodeError, MediaTooLargeError, one_line
from perception_encoder.files import replacing, writing
from perception_encoder.preprocess.budget import MAX_PIXELS, check_pixels
from perception_encoder.preprocess.source import Source, open_source

logger = logging.getLogger(__name__)

FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,flv,ogg,asf,ivf,yuv4mpegpipe,mxf,dv,gif"
"""Allowed containers, by FFmpeg's names: none that refers to other files or URLs, as playlists do."""

_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
"""Titles in other encodings than UTF-8 are not damage; PyAV 19 accepts them anyway."""

HARDWARE = "PE_HWACCEL"
"""Environment variable that names the hardware that decodes videos for an index."""

_UPRIGHT = {
    (0, 1, -1, 0): Image.Transpose.ROTATE_270,
    (-1, 0, 0, -1): Image.Transpose.ROTATE_180,
    (0, -1, 1, 0): Image.Transpose.ROTATE_90,
    (-1, 0, 0, 1): Image.Transpose.FLIP_LEFT_RIGHT,
    (1, 0, 0, -1): Image.Transpose.FLIP_TOP_BOTTOM,
    (0, 1, 1, 0): Image.Transpose.TRANSPOSE,
    (0, -1, -1, 0): Image.Transpose.TRANSVERSE,
}
"""Upper left of the display matrix (a, b, c, d), by signs → what makes the frame upright."""


@contextmanager
def open_container(stream: BinaryIO, name: str, hardware: bool = False) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Open the container from its start and pick its video: the first one that is not a cover image.

    `hardware`: decode with what PE_HWACCEL names, as FFmpeg does ("cuda", "vaapi:/dev/dri/renderD128"), if it knows the
    codec. Raises ConfigError if it does not work here.
    """
    chosen = os.environ.get(HARDWARE, "") if hardware else ""
    kind, _, device = chosen.partition(":")
    if chosen and kind not in (known := hwdevices_available()):
        raise ConfigError(f"{HARDWARE} is {chosen!r}; this FFmpeg has {', '.join(known) or 'none'}")
    stream.seek(0)
    options: dict[str, Any] = {"options": {"format_whitelist": FORMATS}, "io_open": _refuse_other_files, **_LENIENT}
    try:
        if chosen:
            options["hwaccel"] = HWAccel(kind, device or None)
        container = cast(InputContainer, av.open(_Seekable(stream), **options))
    except (av.error.FFmpegError, ValueError) as error:
        if not chosen:
            raise MediaDecodeError(name, "is not a video in a supported format, or its header is damaged") from None
        with open_container(stream, name):  # so the video is not the reason
            raise ConfigError(f"{HARDWARE} is {chosen!r}, which does not work here: {error}; unset it") from error
    with container:
        covers = av.stream.Disposition.attached_pic
        videos = [video for video in container.streams.video if not video.disposition & covers]
        context = videos[0].codec_context if videos else None
        if context is None:  # so it is for a codec that FFmpeg does not know
            raise MediaDecodeError(name, "contains no decodable video")
        check_pixels(name, context.width, context.height, of="frames of ")
        context.options = {"max_pixels": str(MAX_PIXELS)}
        if chosen and not context.is_hwaccel:
            logger.warning("%s: %s does not decode %s here, so the CPU does", name, chosen, context.name)
        context.thread_count = 1  # with more, what a damaged stream decodes to depends on their timing
        yield container, videos[0]


class FrameImages:
    """Converts the frames of a file to images."""

    def __init__(self, name: str, side: int | None = None, limit: int | None = None) -> None:
        """`side`: larger frames are reduced to this short side. `limit`: pixels of all images together.

        Attributes: these, and `size`, width and height of the last frame, upright, before it was reduced.
        """
        self.name, self.side, self.size = name, side, (0, 0)
        self._scaler, self._converter, self._left = VideoReformatter(), VideoReformatter(), limit
        self._turns: dict[int, Image.Transpose | None] = {}  # by the rotation

    def convert(self, frame: VideoFrame) -> Image.Image:
        """Return a frame as an upright RGB image. Raises MediaTooLargeError."""
        check_pixels(self.name, frame.width, frame.height, of="frames of ")
        size: dict[str, Any] = {}
        short = min(frame.width, frame.height)
        if self.side is not None and short > self.side:
            width, height = (max(self.side, round(item * self.side / short)) for item in (frame.width, frame.height))
            size = {"width": width, "height": height, "interpolation": "AREA"}
        if self._left is not None:  # of frames that are larger than the file's header says
            self._left -= size.get("width", frame.width) * size.get("height", frame.height)
            if self._left < 0:
                raise MediaTooLargeError(self.name, f"holds frames of over {MAX_PIXELS:,} pixels together, the limit")
        # a reformatter of its own for each frame, as of `frame.to_image`, takes twice the time; and scaling in colours
        # of three bytes takes twice that of the video's planes, with larger errors
        scaled = self._scaler.reformat(frame, threads=1, **size) if size and frame.format.is_planar else frame
        image = Image.fromarray(self._converter.reformat(scaled, format="rgb24", threads=1, **size).to_ndarray())
        rotation = frame.rotation
        if rotation not in self._turns:  # once: a frame whose side data was read stays in memory until Python collects
            self._turns[rotation] = _upright(frame)
        turn = self._turns[rotation]
        turned = image if turn is None else image.transpose(turn)
        sideways = (turned.width > turned.height) != (image.width > image.height)
        self.size = (frame.height, frame.width) if sideways else (frame.width, frame.height)
        return turned


def _upright(frame: VideoFrame) -> Image.Transpose | None:
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return None
    a, b, _, c, d = ((value > 0) - (value < 0) for value in struct.unpack("=5i", bytes(matrix)[:20]))
    return _UPRIGHT.get((a, b, c, d))


class _Seekable:
    """A stream for PyAV whose seeks never raise: a damaged video may seek anywhere, and PyAV prints errors."""

    def __init__(self, stream: BinaryIO) -> None:
        self.read, self.tell, self._seek = stream.read, stream.tell, stream.seek

    def seek(self, offset: int, whence: int = 0) -> int:
        """Return the new position, or FFmpeg's error code for an invalid one."""
        try:
            return self._seek(offset, whence)
        except (OSError, ValueError, OverflowError):
            return -errno.EINVAL


def _refuse_other_files(url: str, flags: int, options: dict[str, Any]) -> BinaryIO:
    raise PermissionError(f"a video may not open {url}")


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn any decoding error into one that names the file; PyAV may raise anything for a damaged file."""
    try:
        yield
    except (InputError, ConfigError):
        raise
    except MemoryError:
        raise MediaTooLargeError(name, "does not fit in memory") from None
    except av.error.FFmpegError as error:
        reason = error.strerror or one_line(error)
        raise MediaDecodeError(name, f"is damaged and cannot be decoded: {reason}") from error
    except Exception as error:
        raise MediaDecodeError(name, f"cannot be decoded: {one_line(error)}") from error


def frame_pixels(source: Source, name: str | None = None) -> int:
    """Return the size of a video's frames from its header; raises what `open_container` does."""
    with open_source(source, name) as (stream, name), decoding(name), open_container(stream, name) as (_, video):
        return video.width * video.height


def creation_time(source: Source, name: str | None = None) -> datetime | None:
    """Return when a video was recorded, as `recorded` does; raises as `open_container`."""
    with open_source(source, name) as (stream, name), decoding(name), open_container(stream, name) as (container, _):
        return recorded(container)


def recorded(container: InputContainer) -> datetime | None:
    """Return when a video was recorded, by its container, in UTC; None if it does not tell.

    Clocks that were never set say 1904 or 1970, which counts as not telling.
    """
    try:
        moment = datetime.fromisoformat(container.metadata.get("creation_time", ""))
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None
    return moment if 1970 < moment.year < 9999 else None


AddFrame = Callable[[Image.Image | UInt8[np.ndarray, "H W 3"]], None]
"""Adds a frame of the video's size."""


@contextmanager
def write_video(path: Path, size: tuple[int, int], rate: float) -> Iterator[AddFrame]:
    """Yield a function that adds frames of `size` (width, height) to an H.264 video at `rate` frames per second.

    An odd side loses its last row or column, since H.264 needs even ones. The file appears when all is written; raises
    OutputError if it cannot be.
    """
    with (
        writing(path, also=(av.FFmpegError,)),
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
    ):
        width, height = (side - side % 2 for side in size)
        stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options={"crf": "20"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"

        def add(frame: Image.Image | np.ndarray) -> None:
            pixels = np.ascontiguousarray(np.asarray(frame)[:height, :width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))

        yield add
        container.mux(stream.encode())
