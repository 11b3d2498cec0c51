"""Write frames as an MP4 that every browser plays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

import av
import numpy as np
from av.container import OutputContainer
from jaxtyping import UInt8
from PIL import Image

from perception_encoder.files import replacing, writing


class AddFrame(Protocol):
    """Adds a frame of the video's size."""

    def __call__(self, frame: Image.Image | UInt8[np.ndarray, "H W 3"], /) -> None: ...


@contextmanager
def write_video(path: Path, size: tuple[int, int], rate: float) -> Iterator[AddFrame]:
    """Yield what adds frames of `size` (width, height) to an H.264 video of `rate` frames a second.

    An odd side loses its last row or column, since H.264 needs even ones. The file appears when all is written; raises
    OutputError if it cannot be.
    """
    with (
        writing(path, also=(av.FFmpegError,)),
        replacing(path) as temporary,
        av.open(str(temporary), "w", format="mp4", options={"movflags": "+faststart"}) as container,
        _encoding(container, size, rate) as add,
    ):
        yield add


@contextmanager
def write_video_to(stream: BinaryIO, size: tuple[int, int], rate: float) -> Iterator[AddFrame]:
    """Yield what adds frames to a video in memory, as `write_video` does; its index comes last."""
    with av.open(stream, "w", format="mp4") as container, _encoding(container, size, rate) as add:
        yield add


@contextmanager
def _encoding(container: OutputContainer, size: tuple[int, int], rate: float) -> Iterator[AddFrame]:
    width, height = (side - side % 2 for side in size)
    stream = container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001), options={"crf": "20"})
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"

    def add(frame: Image.Image | np.ndarray, /) -> None:
        pixels = np.ascontiguousarray(np.asarray(frame)[:height, :width])
        container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))

    yield add
    container.mux(stream.encode())
