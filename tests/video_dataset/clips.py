"""A small dataset in the PE Video Dataset's layout: clips whose frames carry their numbers."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np

from perception_encoder.formats.shards import json_bytes, write_members
from tests.clips import clip

Videos = Sequence[tuple[str, Mapping[str, Any]]]


@cache
def short_clip(count: int = 20, rate: int = 10) -> bytes:
    """An mp4, encoded once for all tests."""
    return clip(count, rate=rate)


def long_clip(minutes: int = 5) -> bytes:
    """An mp4 of some minutes, several MiB each: five seconds of noise, encoded once, again and again."""
    noise, output = np.random.default_rng(0).integers(0, 256, (50, 64, 128, 3), np.uint8), io.BytesIO()
    with av.open(output, "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=10, options={"bf": "0"})
        video.width, video.height, video.pix_fmt, video.gop_size = 128, 64, "yuv420p", len(noise)
        frames = [*map(av.VideoFrame.from_ndarray, noise), None]
        packets = [packet for frame in frames for packet in video.encode(frame)]
        for number in range(12 * minutes * len(packets)):
            packet = packets[number % len(packets)]
            copy = av.Packet(bytes(packet))
            copy.stream, copy.time_base, copy.is_keyframe = video, packet.time_base, packet.is_keyframe
            copy.pts = copy.dts = number
            container.mux(copy)
    return output.getvalue()


def fields(caption: str | None, **others: Any) -> dict[str, Any]:
    """The JSON of a video, with the published fields."""
    published = {
        "human_caption": None,
        "model_caption": caption,
        "category": "water_scenes",
        "category_name": "Water Scenes",
        "video_duration_in_s": 2.0,
        "fps": 10.0,
        "num_frames": 20,
        "height": 64,
        "width": 128,
        "keywords": ["water"],
        "description": "A short clip.",
        "has_face": False,
    }
    return {**published, **others}


def write_dataset(directory: Path, splits: Mapping[str, Sequence[Videos]]) -> Path:
    """Write SPLIT/000000.tar and so on: for each split its tars, each a list of (key, metadata)."""
    for split, tars in splits.items():
        for number, videos in enumerate(tars):
            members = [(f"{key}.mp4", short_clip()) for key, _ in videos]
            described = [(f"{key}.json", json_bytes(metadata)) for key, metadata in videos]
            both = [member for pair in zip(members, described, strict=True) for member in pair]
            write_members(directory / split / f"{number:06}.tar", both)
    return directory


def small_dataset(directory: Path, count: int = 3) -> Path:
    """A dataset of `count` videos in one tar of `train`, whose captions say their numbers."""
    videos = [(f"v{n}", fields(f"A red boat number {n} drifts on a lake.")) for n in range(count)]
    return write_dataset(directory, {"train": [videos]})
