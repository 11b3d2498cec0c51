"""Videos as they are found in the wild: bad ones that cannot be used, and odd ones that can."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import av
import numpy as np
from av.container import OutputContainer

from tests.clips import clip, with_display_matrix


def muxed(write: Callable[[OutputContainer], None]) -> bytes:
    """An MP4 of what is written to it."""
    content = io.BytesIO()
    with av.open(content, "w", format="mp4") as container:
        write(container)
    return content.getvalue()


def encoded(width: int, height: int, pixels: str = "yuv420p", count: int = 2) -> bytes:
    """An H.264 video of a size and pixel format."""

    def write(container: OutputContainer) -> None:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        for _ in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 90, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())

    return muxed(write)


def sound_alone(container: OutputContainer) -> None:
    audio = container.add_stream("aac", rate=8000, layout="mono")
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
    silence.rate = 8000
    container.mux(audio.encode(silence))
    container.mux(audio.encode())


def without_frames(container: OutputContainer) -> None:
    """End a video stream before its first frame."""
    stream = container.add_stream("libx264", rate=25)
    stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
    container.start_encoding()


@cache
def bad_videos() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be used, each with a part of the reason."""
    return {
        "empty": (b"", "is empty"),
        "words": (b"not a video at all" * 9, "is not a video"),
        "cut": (clip()[:-200], "is not a video"),
        "sound": (muxed(sound_alone), "contains no decodable video"),
        "no_frames": (muxed(without_frames), "contains no decodable video"),
    }


@cache
def odd_videos() -> dict[str, tuple[bytes, tuple[int, int], int]]:
    """Videos that can be used, with their size as shown and their number of frames."""
    return {
        "one_frame": (clip(1), (128, 64), 1),
        "uneven": (clip(20, ticks=tuple(n * n for n in range(20))), (128, 64), 20),
        "turned": (with_display_matrix(clip(), 0, 1, -1, 0), (64, 128), 60),
        "ten_bit": (encoded(64, 64, "yuv420p10le"), (64, 64), 2),
        "8k": (encoded(7680, 4320), (7680, 4320), 2),
        "truncated": (clip(120, movflags="faststart")[:-600], (128, 64), 0),
    }
