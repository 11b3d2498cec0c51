"""Track regions of a moment through its video and draw them: one video at a time, within limits."""

from __future__ import annotations

import io
import math
from collections import deque
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, aclosing
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.errors import ConfigError, DataError, MediaTooLargeError
from perception_encoder.preprocess.budget import DECODING, PIXEL_BYTES
from perception_encoder.preprocess.video import frame_rate, sample_frames
from perception_encoder.preprocess.video_file import AddFrame, write_video_to
from perception_encoder.search.storage.rows import IndexRow
from perception_encoder.search.web.dense_images import FeatureImages
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.serving.http import pieces_from
from perception_encoder.serving.queues import QueueFullError

if TYPE_CHECKING:
    from perception_encoder.inference.layer_features import LayerFeatures

SECONDS = 20.0
"""Maximum tracked length."""
_RATE = 15.0  # maximum frames a second; 300 in all
_SIDE, _MINIMUM_SIDE = 640, 16  # pixels: maximum of a drawn frame's longer side, minimum of its shorter one
_PIXELS = 4096 * 2304  # maximum of a frame; two are in memory
_JOBS = 4  # maximum waiting or running
_WAITING_SECONDS = 10.0  # until a waiting job reports that it waits
_ELSEWHERE = "track it with: pe track"


@dataclass(frozen=True)
class TrackProgress:
    """Progress of tracking."""

    done: int
    total: int
    """Approximate number of frames."""


@dataclass(frozen=True)
class TrackWaiting:
    """Other videos are tracked first."""

    waiting: bool = True


@dataclass(frozen=True)
class TrackedVideo:
    """A video with its regions drawn."""

    content: bytes
    """MP4."""
    complete: bool
    """Whether it ends where the original does, not at the limit of `SECONDS`."""


TrackPiece = TrackWaiting | TrackProgress | TrackedVideo


class VideoTracker:
    """Tracks regions through a library's videos by the features of the library's model.

    Nothing is written to the disk. The model computes in the library's thread, a frame at a time, so that a search
    waits for one frame only.
    """

    def __init__(self, library: MediaLibrary, features: FeatureImages) -> None:
        self._library, self._features, self._jobs = library, features, 0
        self._thread = ThreadPoolExecutor(1, "track")

    async def track(
        self, row_id: str, layer: int, points: Sequence[tuple[float, float]]
    ) -> AsyncGenerator[TrackPiece, None]:
        """Yield the progress of tracking the regions that resemble points of a moment's frame, and finally the video.

        Closing the generator ends the work. Raises QueueFullError; ConfigError for an image and for a layer that does
        not exist; DataError if no region looks like the points; and the errors of the file.
        """
        if self._jobs >= _JOBS:
            raise QueueFullError(f"{self._jobs} videos are being tracked or waiting; try again later")
        self._jobs += 1
        try:
            waiting: tuple[TrackPiece, float] = TrackWaiting(), _WAITING_SECONDS
            pieces = pieces_from(self._thread, partial(self._track, row_id, layer, points), waiting)
            async with aclosing(pieces):
                async for piece in pieces:
                    yield piece
        finally:
            self._jobs -= 1

    def _track(
        self, row_id: str, layer: int, points: Sequence[tuple[float, float]]
    ) -> Generator[TrackPiece, None, None]:
        from perception_encoder.dense_prediction.drawing import draw_objects

        row = self._library.index.row(row_id)
        if row.kind != "video":
            raise ConfigError(f"{row.path} is an image; regions can only be tracked through a video")
        pixels = row.width * row.height
        if pixels > _PIXELS:
            reason = f"has frames of {pixels:,} pixels; the page's limit is {_PIXELS:,}; {_ELSEWHERE}"
            raise MediaTooLargeError(row.path, reason)
        path = self._library.file(row_id)
        rate = frame_rate(path, row.path)
        step = max(1, math.ceil(rate / _RATE - 0.01))
        seconds = max(0.0, (row.length or 0.0) - (row.time or 0.0))
        total = max(1, math.ceil(min(seconds, SECONDS) * rate / step - 0.01))
        features = self._features.features(row_id, layer)
        stream = io.BytesIO()
        with ExitStack() as stack:
            add: AddFrame | None = None
            frames = self._decode(_sample(path, row, step / rate), PIXEL_BYTES * pixels)
            for done, (frame, labels) in enumerate(self._label(frames, features, layer, points), start=1):
                if add is None:
                    add = stack.enter_context(write_video_to(stream, frame.size, rate / step))
                add(draw_objects(frame, labels))
                yield TrackProgress(min(done, total), total)
        yield TrackedVideo(stream.getvalue(), seconds <= SECONDS)

    def _decode(self, frames: Iterator[Image.Image], size: int) -> Iterator[Image.Image]:
        """Yield frames, each decoded once the library's budget has `size` bytes."""
        while True:
            with DECODING.holding(size):
                frame = next(frames, None)
            if frame is None:
                return
            yield frame

    def _label(
        self,
        frames: Iterator[Image.Image],
        features: Float[np.ndarray, "h w D"],
        layer: int,
        points: Sequence[tuple[float, float]],
    ) -> Iterator[tuple[Image.Image, np.ndarray]]:
        """Yield frames with labels, computed in the library's thread; `features`: those of the first frame."""
        from perception_encoder.dense_prediction.regions import label_regions
        from perception_encoder.dense_prediction.tracking import track_objects
        from perception_encoder.inference.feature_map import map_grid

        waiting: deque[Image.Image] = deque()
        tracked: Iterator[tuple[Image.Image, np.ndarray]] | None = None
        for frame in frames:
            waiting.append(frame)
            if tracked is None:
                labels = self._library.compute(partial(label_regions, features, points, frame.size))
                if not labels.any():
                    raise DataError("no region differs from the rest at these points; choose others, or another layer")
                model = self._encoder.at(layer)
                short_side = min(map_grid(frame.size)) * self._encoder.patch_size
                tracked = track_objects(iter(waiting.popleft, None), labels, model, short_side, batch_size=1)
            yield self._library.compute(partial(next, tracked))

    @cached_property
    def _encoder(self) -> LayerFeatures:
        from perception_encoder.inference.layer_features import LayerFeatures

        return LayerFeatures.of(self._library.encoder, final_norm=True)  # as the page's features


def _sample(path: Path, row: IndexRow, every: float) -> Iterator[Image.Image]:
    """Yield the frames of `SECONDS` from a moment's frame on, resized for the page."""
    start = row.time or 0.0
    for sampled in sample_frames(path, row.path, every, start):
        if sampled.time - start >= SECONDS:
            return
        scale = min(1.0, _SIDE / max(sampled.image.size))
        width, height = (max(_MINIMUM_SIDE, 2 * round(side * scale / 2)) for side in sampled.image.size)
        yield sampled.image.resize((width, height), Image.Resampling.BILINEAR)
