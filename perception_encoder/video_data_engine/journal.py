"""What a run has done so far: a line of JSON for each outcome, on the disk before the work goes on.

A line that was cut off by a kill or a full disk is removed when the file is read. Frames are in a tar for each clip,
written whole before their line.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import read_members, write_members
from perception_encoder.formats.tables import append_json_lines, read_appended_lines
from perception_encoder.video_data_engine.record import (
    FRAMES,
    STAGES,
    SUMMARY,
    ClipRecord,
    Outcome,
    StageFailure,
    StageResult,
)

logger = logging.getLogger(__name__)

JOURNAL, FRAMES_DIRECTORY = "journal.jsonl", "frames"


class Journal:
    """The outcomes of all runs with one output directory.

    Attributes: `results` (by key and stage), `failures` (by key: those that no later run overcame), `finished` (keys of
    clips with a summary, in the order in which they were finished). Raises DataError for a damaged journal.
    """

    def __init__(self, directory: Path) -> None:
        self._path, self._frames = directory / JOURNAL, directory / FRAMES_DIRECTORY
        self.results: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.failures: dict[str, StageFailure] = {}
        self.seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
        self.finished: list[str] = []
        for where, line in read_appended_lines(self._path):
            try:
                self._take(_outcome(line))
            except (KeyError, TypeError):
                raise DataError(f"{where} is not a line of the engine's journal") from None

    def add(self, outcome: Outcome) -> None:
        """Store an outcome; OutputError if that fails, and then the next run does that work again."""
        if isinstance(outcome, StageResult):
            if outcome.frames:
                names = [f"{outcome.key}-{number:03}.jpg" for number in range(len(outcome.frames))]
                write_members(self._tar(outcome.key), zip(names, outcome.frames, strict=True))
            line: dict[str, Any] = {"value": dict(outcome.value)}
        else:
            line = {"source": outcome.source, "reason": outcome.reason, "cause": outcome.cause}
        head = {"key": outcome.key, "stage": outcome.stage, "seconds": round(outcome.seconds, 4)}
        append_json_lines(self._path, [head | line])
        self._take(outcome)

    def restore(self, record: ClipRecord) -> ClipRecord:
        """Return a record with the results that it has so far, and its frames if it has those."""
        record = replace(record, results={**record.results, **self.results.get(record.key, {})})
        if FRAMES not in record.results or SUMMARY in record.results:
            return record
        try:
            return replace(
                record, frames=tuple(content for _, content in read_members(self._tar(record.key), ("jpg",)))
            )
        except DataError as error:
            logger.warning("the frames of %s are sampled again: %s", record.key, error)
            return replace(record, results={stage: value for stage, value in record.results.items() if stage != FRAMES})

    def _tar(self, key: str) -> Path:
        return self._frames / f"{key}.tar"

    def _take(self, outcome: Outcome) -> None:
        self.seconds[outcome.stage] += outcome.seconds
        if isinstance(outcome, StageFailure):
            self.failures[outcome.key] = outcome
            return
        self.failures.pop(outcome.key, None)
        if outcome.stage == SUMMARY and SUMMARY not in self.results[outcome.key]:
            self.finished.append(outcome.key)
        self.results[outcome.key][outcome.stage] = dict(outcome.value)


def _outcome(line: dict[str, Any]) -> Outcome:
    if "value" in line:
        return StageResult(**line)
    return StageFailure(**line)
