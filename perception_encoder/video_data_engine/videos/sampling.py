"""Sample the frames of a clip, as JPEG files that every later stage reads."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image

from perception_encoder.preprocess.frames import VideoFrames, plm_frame_indices
from perception_encoder.preprocess.video import read_frames
from perception_encoder.video_data_engine.record import FRAMES, ClipRecord

QUALITY = 92


def sample_clip(record: ClipRecord, count: int, side: int) -> tuple[dict[str, Any], tuple[bytes, ...]]:
    """Return what the clip is and when its frames are shown, and at most `count` frames of a short side up to `side`.

    Frames are those that the published PLM reads. Raises InputError as `read_frames` does.
    """
    item = record.item
    frames = read_frames(item.open(), item.name, count, item.start, item.end, choose=plm_frame_indices, side=side)
    value = {
        "video": record.video or record.key,
        "start": item.start,
        "end": item.end,
        "times": [round(time, 6) for time in frames.times],
        "size": list(frames.images[0].size),
    }
    return value, tuple(map(_jpeg, frames.images))


def open_clip_frames(record: ClipRecord) -> VideoFrames:
    """Return the sampled frames as a captioner reads them."""
    images = [Image.open(io.BytesIO(frame)).convert("RGB") for frame in record.frames]
    times: Sequence[float] = record.results[FRAMES]["times"]
    return VideoFrames(list(images), list(times), times[-1], len(images), True)


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()
