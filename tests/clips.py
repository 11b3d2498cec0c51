"""Small synthetic videos whose frames carry their number in black and white blocks, so that any codec keeps it."""

from __future__ import annotations

import io
import struct
import tempfile
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from PIL import Image

WIDTH, HEIGHT = 128, 64
_BITS = 8


def numbered(number: int) -> Image.Image:
    """A grey picture with `number` in eight blocks along the top; the bottom left corner is red."""
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    for bit in range(_BITS):
        pixels[:32, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
    pixels[32:, :32] = (255, 0, 0)
    return Image.fromarray(pixels)


def number_of(image: Image.Image) -> int:
    """The number that a frame carries."""
    pixels = np.asarray(image.convert("L"), float)
    return sum(1 << bit for bit in range(_BITS) if pixels[8:24, 16 * bit + 4 : 16 * bit + 12].mean() > 128)


@lru_cache(maxsize=64)
def clip(
    count: int = 60,
    format: str = "mp4",
    codec: str = "libx264",
    *,
    rate: int = 25,
    group: int = 12,
    ticks: tuple[int, ...] | None = None,
    sound: bool = False,
    **options: str,
) -> bytes:
    """A video of `count` numbered frames, a key frame each `group`; `ticks`: their times, in hundredths of a second."""
    with tempfile.TemporaryDirectory() as directory:  # a file, since moving an mp4's index to the front reads it again
        path = Path(directory, "clip")
        with av.open(str(path), "w", format=format, options=options) as container:
            video = container.add_stream(codec, rate=rate, options=options)
            video.width, video.height, video.gop_size = WIDTH, HEIGHT, group
            video.pix_fmt = {"mjpeg": "yuvj420p", "gif": "rgb8"}.get(codec, "yuv420p")
            audio = container.add_stream("aac", rate=8000, layout="mono") if sound else None
            if ticks is not None:
                video.codec_context.time_base = Fraction(1, 100)
            container.start_encoding()
            for number in range(count):
                frame = av.VideoFrame.from_image(numbered(number))
                if ticks is not None:
                    frame.pts, frame.time_base = ticks[number], Fraction(1, 100)
                container.mux(video.encode(frame))
            container.mux(video.encode())
            if audio is not None:
                silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000 * count // rate), np.float32), "fltp", "mono")
                silence.rate = 8000
                container.mux(audio.encode(silence))
                container.mux(audio.encode())
        return path.read_bytes()


def with_display_matrix(mp4: bytes, a: int, b: int, c: int, d: int) -> bytes:
    """The same mp4, to be shown turned: its track's identity matrix replaced."""
    one = 1 << 16
    identity = struct.pack(">9i", one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    turned = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    start = mp4.index(identity, mp4.index(b"tkhd"))
    return mp4[:start] + turned + mp4[start + len(identity) :]


def trimmed(mp4: bytes, first: int, last: int) -> bytes:
    """The same mp4 of 60 frames, to be shown from frame `first` to before frame `last`: its edit list changed."""
    start = mp4.index(b"elst") + 12
    duration, begin, rate = struct.unpack(">Iii", mp4[start : start + 12])
    edit = struct.pack(">Iii", duration * (last - first) // 60, begin + 512 * first, rate)
    return mp4[:start] + edit + mp4[start + 12 :]


def of_two_sizes(*sizes: tuple[int, int]) -> bytes:
    """A raw H.264 stream of four grey frames of each size (width, height): what a camera that is switched sends."""
    stream = b""
    for width, height in sizes:
        part = io.BytesIO()
        with av.open(part, "w", format="h264") as container:
            video = container.add_stream("libx264", rate=10)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            for _ in range(4):
                grey = np.full((height, width, 3), 120, np.uint8)
                container.mux(video.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
            container.mux(video.encode(None))
        stream += part.getvalue()
    return stream
