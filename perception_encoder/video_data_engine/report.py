"""Count what a run does: by stage, with its share of the time, and in videos a minute."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from perception_encoder.video_data_engine.record import FRAMES, PROBE, STAGES, Outcome, StageFailure, StageResult


@dataclass(frozen=True)
class StageRow:
    """A line of the table of stages."""

    stage: str
    done: int
    failed: int
    seconds: float
    """Of work, in all processes together."""
    share: float
    """Of the work of all stages, in 0–1."""


class EngineReport:
    """The counts of one run.

    Attributes: `videos` (listed), `skipped` (of these: done before, or in quarantine), `frames` (decoded), `clips`
    (finished, of all runs), `quarantine` (failures of all runs, once this one is over).
    """

    def __init__(self, videos: int) -> None:
        self.videos, self.skipped, self.frames, self.clips = videos, 0, 0, 0
        self.quarantine: list[StageFailure] = []
        self.done: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._started = time.monotonic()
        self.wall = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.seconds[outcome.stage] += outcome.seconds
        (self.failed if isinstance(outcome, StageFailure) else self.done)[outcome.stage] += 1
        if isinstance(outcome, StageResult):
            self.frames += len(outcome.frames)
        self.wall = time.monotonic() - self._started

    def rows(self) -> Iterator[StageRow]:
        """Yield the stages in order."""
        total = sum(self.seconds.values()) or 1.0
        for stage in STAGES:
            seconds = self.seconds[stage]
            yield StageRow(stage, self.done[stage], self.failed[stage], seconds, seconds / total)

    @property
    def videos_per_minute(self) -> float:
        """Videos that were probed, a minute of the clock."""
        return 60 * self.done[PROBE] / self.wall if self.wall else 0.0

    @property
    def frames_per_second(self) -> float:
        """Frames that were sampled, a second of a decoding process."""
        return self.frames / self.seconds[FRAMES] if self.seconds[FRAMES] else 0.0

    def to_json(self) -> dict[str, Any]:
        """The report, ready for JSON."""
        return {
            "videos": self.videos,
            "skipped": self.skipped,
            "clips": self.clips,
            "quarantine": len(self.quarantine),
            "seconds": round(self.wall, 2),
            "videos_per_minute": round(self.videos_per_minute, 2),
            "frames_per_second": round(self.frames_per_second, 1),
            "stages": [
                {
                    "stage": row.stage,
                    "done": row.done,
                    "failed": row.failed,
                    "seconds": round(row.seconds, 2),
                    "share": round(row.share, 4),
                }
                for row in self.rows()
            ],
        }
