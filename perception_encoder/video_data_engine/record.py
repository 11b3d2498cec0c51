"""One record type for all stages: a video, or a clip of one, with the result of each stage that it has been through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.listing import Item

PROBE, FRAMES, VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY = "probe", "frames", "video_caption", "frame_captions", "summary"
STAGES = (PROBE, FRAMES, VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY)
"""In their order. The first is of a video, the others of each of its clips."""

Cause = Literal["video", "model", "service"]
"""What a failure is due to: the file, a model's answer to it, or an endpoint that was out of order."""


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """A video before it is probed, and after that each of its clips."""

    key: str
    """Its name in all outputs: letters, digits, `-` and `_`."""
    item: Item
    """Where it is, and which seconds of it."""
    video: str = ""
    """The key of the video that it is a clip of; empty for a whole video."""
    sidecar: Path | TarMember | None = None
    """A JSON file of metadata."""
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By stage, ready for JSON."""
    frames: tuple[bytes, ...] = ()
    """Sampled frames, as JPEG files."""

    @property
    def next_stage(self) -> str | None:
        """The stage it is waiting for; None if it has been through all."""
        return next((stage for stage in STAGES if stage not in self.results), None)

    def after(self, result: StageResult) -> ClipRecord:
        """Return the record with one more result."""
        results = {**self.results, result.stage: result.value}
        return replace(self, results=results, frames=result.frames or self.frames)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """What a stage made of a record."""

    key: str
    stage: str
    value: Mapping[str, Any]
    seconds: float = 0.0
    """Its share of the time that the worker took."""
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageFailure:
    """Why a stage could not do it."""

    key: str
    stage: str
    source: str
    """The input's name."""
    reason: str
    cause: Cause
    seconds: float = 0.0


Outcome = StageResult | StageFailure


def clips_of(video: ClipRecord) -> list[ClipRecord]:
    """Return the clips of a probed video: itself if it was not cut."""
    spans = video.results[PROBE]["clips"]
    if len(spans) == 1:
        return [video]
    return [
        replace(video, key=f"{video.key}-{number:04}", video=video.key, item=replace(video.item, start=start, end=end))
        for number, (start, end) in enumerate(spans)
    ]
