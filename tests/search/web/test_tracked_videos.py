"""Regions followed through a video for the page: what is drawn, and the limits."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from perception_encoder.dense_prediction import drawing
from perception_encoder.dense_prediction.tracking import LabelPropagator
from perception_encoder.errors import ConfigError, DataError, MediaTooLargeError
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.preprocess.budget import DECODING
from perception_encoder.preprocess.video import frame_rate, sample_frames
from perception_encoder.preprocess.video_file import write_video
from perception_encoder.search.storage.rows import IndexRow
from perception_encoder.search.storage.store import Store
from perception_encoder.search.web import tracked_videos
from perception_encoder.search.web.dense_images import FeatureImages
from perception_encoder.search.web.library import MediaLibrary
from perception_encoder.search.web.tracked_videos import TrackedVideo, TrackProgress, VideoTracker
from perception_encoder.serving.queues import QueueFullError
from tests.clips import number_of
from tests.search.indexes import make_library, update_folder

CORNER = [(0.1, 0.9)]
"""A point of the clip's red corner."""
SIZE = (160, 96)


def left_of(number: int) -> int:
    """Where the square of a frame begins."""
    return 16 + 4 * number


def squares(path: Path, count: int, rate: float = 10.0) -> None:
    """A red square that moves to the right before a green background."""
    with write_video(path, SIZE, rate) as add:
        for number in range(count):
            pixels = np.full((SIZE[1], SIZE[0], 3), (20, 120, 30), np.uint8)
            pixels[32:80, left_of(number) : left_of(number) + 48] = (220, 30, 30)
            add(pixels)


@pytest.fixture(scope="module")
def library(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, encoder: Encoder, draw: Callable[[int], Image.Image]
) -> MediaLibrary:
    """Images and the clip of `make_library`, and a video of a square."""
    folder = tmp_path_factory.mktemp("library") / "photos"
    folder.mkdir()
    squares(folder / "square.mp4", 12)
    return make_library(folder, checkpoint, encoder, draw)


@pytest.fixture
def tracker(library: MediaLibrary) -> Iterator[VideoTracker]:
    tracker = VideoTracker(library, FeatureImages(library))
    yield tracker
    tracker._thread.shutdown()  # a closed generator's work ends after its next frame
    assert DECODING._held == 0


def moment(library: MediaLibrary, path: str, number: int = 0) -> IndexRow:
    rows = [row for row in library.index.rows() if row.path == path]
    return sorted(rows, key=lambda row: row.start or 0)[number]


def pieces_of(tracker: VideoTracker, row: IndexRow, *arguments: Any) -> list[TrackProgress | TrackedVideo]:
    """All of what tracking yields; `arguments`: the layer and the points."""

    async def collect() -> list[TrackProgress | TrackedVideo]:
        return [piece async for piece in tracker.track(row.id, *arguments)]

    return asyncio.run(collect())


def images_of(video: TrackedVideo | TrackProgress) -> list[Image.Image]:
    assert isinstance(video, TrackedVideo)
    return [frame.image for frame in sample_frames(video.content, every=0)]


def test_a_square_is_followed_from_the_shown_moment_on(tracker: VideoTracker, library: MediaLibrary) -> None:
    row = moment(library, "square.mp4")
    first = round((row.time or 0) * 10)
    point = ((left_of(first) + 24) / SIZE[0], 56 / SIZE[1])
    *progress, video = pieces_of(tracker, row, 0, [point])
    count = 12 - first
    assert progress == [TrackProgress(done, count) for done in range(1, count + 1)]
    assert isinstance(video, TrackedVideo) and video.complete and frame_rate(video.content) == pytest.approx(10, 0.01)
    frames = images_of(video)
    assert len(frames) == count and frames[0].size == SIZE
    for number, frame in enumerate(frames, start=first):
        pixels, middle = np.asarray(frame, int), left_of(number) + 24
        square, background = pixels[50:62, middle - 6 : middle + 6], pixels[5:15, :10]
        assert np.abs(square.mean((0, 1)) - (174, 15, 15)).max() < 25, number  # half of it is dark red
        assert np.abs(background.mean((0, 1)) - (20, 120, 30)).max() < 12, number


def test_a_later_moment_begins_at_its_frame_and_the_limit_cuts(
    tracker: VideoTracker, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracked_videos, "SECONDS", 0.8)
    rows = [row for row in library.index.rows() if row.path == "clip.mp4" and (row.time or 0) < 18]
    row = max(rows, key=lambda row: row.time or 0)
    *progress, video = pieces_of(tracker, row, 2, CORNER)
    numbers = [number_of(frame) for frame in images_of(video)]
    first = round((row.time or 0) * 10)
    assert first > 0 and numbers == list(range(first, first + 8)) and len(progress) == 8
    assert isinstance(video, TrackedVideo) and not video.complete


@pytest.mark.parametrize(("rate", "expected"), [(12.0, 12.0), (25.0, 12.5), (60.0, 15.0)])
def test_frames_are_left_out_of_fast_videos_and_large_ones_are_reduced(
    checkpoint: Path, encoder: Encoder, tmp_path: Path, rate: float, expected: float
) -> None:
    with write_video(tmp_path / "fast.mp4", (1300, 100), rate) as add:
        for number in range(13):
            add(np.full((100, 1300, 3), (number * 15, 90, 60), np.uint8))
    update_folder(tmp_path, checkpoint)
    library = MediaLibrary(Store.open(tmp_path), encoder)
    row = next(iter(library.index.rows()))
    *progress, video = pieces_of(VideoTracker(library, FeatureImages(library)), row, 2, [(0.1, 0.5)])
    assert isinstance(video, TrackedVideo) and frame_rate(video.content) == pytest.approx(expected, 0.01)
    frames = images_of(video)
    assert frames[0].size == (640, 50)
    step, first = round(rate / expected), round((row.time or 0) * rate)
    assert len(frames) == len(progress) and abs(len(frames) - (13 - first) / step) < 1.01


def test_nothing_is_written_and_the_model_computes_in_its_thread(
    tracker: VideoTracker, library: MediaLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[int] = set()
    for owner, name in ((LayerFeatures, "encode_layers"), (LabelPropagator, "step")):
        method = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *given, method=method: (threads.add(threading.get_ident()), method(*given))[1]
        )
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = sorted(library.index.root.rglob("*"))
    pieces_of(tracker, moment(library, "square.mp4"), 0, [(0.5, 0.5)])
    assert threads == {library.compute(threading.get_ident)}
    assert list(tmp_path.iterdir()) == [] and sorted(library.index.root.rglob("*")) == before


def test_a_search_waits_for_a_frame_and_not_for_the_video(
    tracker: VideoTracker, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    draw = drawing.draw_objects
    monkeypatch.setattr(drawing, "draw_objects", lambda *given: (drawn.append(1), draw(*given))[1])

    async def run() -> tuple[int, int]:
        pieces = tracker.track(moment(library, "clip.mp4").id, 2, CORNER)
        async with aclosing(pieces):
            piece = await anext(pieces)
            assert isinstance(piece, TrackProgress)
            await asyncio.to_thread(library.compute, lambda: None)
            return len(drawn), piece.total

    done, total = asyncio.run(run())
    assert done < total / 2


def test_closing_ends_the_work_and_one_video_is_tracked_at_a_time(
    tracker: VideoTracker, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, most = 0, 0
    track = tracker._track

    def counted(*given: Any) -> Any:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            yield from track(*given)
        finally:
            running -= 1

    monkeypatch.setattr(tracker, "_track", counted)
    long, short = moment(library, "clip.mp4"), moment(library, "square.mp4")

    async def run() -> list[int]:
        first = tracker.track(long.id, 2, CORNER)
        async with aclosing(first):
            await anext(first)
            waiting = [asyncio.ensure_future(anext(tracker.track(short.id, 0, CORNER))) for _ in range(3)]
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError, match="4 videos are being tracked or waiting"):
                await anext(tracker.track(short.id, 0, CORNER))
        pieces = await asyncio.gather(*waiting)
        return [piece.done for piece in pieces if isinstance(piece, TrackProgress)]

    assert asyncio.run(run()) == [1, 1, 1] and most == 1
    assert len(pieces_of(tracker, short, 0, CORNER)) > 1  # the queue is empty again


def test_what_cannot_be_tracked(tracker: VideoTracker, library: MediaLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"04's <b>\.jpg is an image; regions can only be tracked through a video"):
        pieces_of(tracker, moment(library, "04's <b>.jpg"), 0, CORNER)
    clip = moment(library, "clip.mp4")
    with pytest.raises(ConfigError, match="has layers 0 to 11"):
        pieces_of(tracker, clip, 12, CORNER)
    with monkeypatch.context() as patch:
        patch.setattr(FeatureImages, "features", lambda *given: np.ones((20, 40, 8), np.float32))
        with pytest.raises(DataError, match="no region differs from the rest at these points"):
            pieces_of(tracker, clip, 0, CORNER)
    monkeypatch.setattr(tracked_videos, "_PIXELS", 8000)
    with pytest.raises(MediaTooLargeError, match=r"clip\.mp4: has frames of 8,192 pixels; .* limit is 8,000; track it"):
        pieces_of(tracker, clip, 0, CORNER)
