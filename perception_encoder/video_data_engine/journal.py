"""Records of a run, outcomes of its stages, and the journal: a line of JSON for each outcome, before work continues.

A clip's frames are written whole before their line.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.formats.listing import Item
from perception_encoder.formats.shards import read_members, write_members
from perception_encoder.formats.tars import TarMember
from perception_encoder.records import Range, from_fields
from perception_encoder.store import Records, compare_settings

logger = logging.getLogger(__name__)

PROBE, FRAMES, VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY = "probe", "frames", "video_caption", "frame_captions", "summary"
STAGES = (PROBE, FRAMES, VIDEO_CAPTION, FRAME_CAPTIONS, SUMMARY)
"""The stages in order. The first handles videos, the others clips."""

Cause = Literal["video", "model", "service"]
"""The cause of a failure: the file, the model's answer, or an unavailable endpoint."""


@dataclass(frozen=True, kw_only=True)
class ClipRecord:
    """A video or, after probing, one of its clips, with the results so far."""

    key: str
    """Name in all outputs: letters, digits, `-` and `_`."""
    item: Item
    """The file, with the range in seconds."""
    video: str = ""
    """Key of the video that contains the clip; empty for a whole video."""
    sidecar: Path | TarMember | None = None
    """A JSON file of metadata."""
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Results by stage, as JSON values."""
    frames: tuple[bytes, ...] = ()
    """Sampled frames, as JPEG files."""

    @property
    def next_stage(self) -> str | None:
        """The first stage without a result; None if the record is finished."""
        return next((stage for stage in STAGES if stage not in self.results), None)

    def after(self, outcome: Outcome) -> list[ClipRecord]:
        """Return the records to process next: this one, or a probed video's clips; after a failure, none."""
        if isinstance(outcome, StageFailure):
            return []
        results = {**self.results, outcome.stage: outcome.value}
        record = replace(self, results=results, frames=outcome.frames or self.frames)
        return clips_of(record) if outcome.stage == PROBE else [record]

    def failure(self, stage: str, reason: str, cause: Cause = "video", seconds: float = 0.0) -> StageFailure:
        """Return the failure of a stage."""
        source = self.item.name
        return StageFailure(key=self.key, stage=stage, source=source, reason=reason, cause=cause, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class StageResult:
    """The result of a stage for a record."""

    key: str
    stage: str
    value: Mapping[str, Any]
    seconds: float = 0.0
    """Its share of the worker's time, in seconds."""
    frames: tuple[bytes, ...] = ()


@dataclass(frozen=True, kw_only=True)
class StageFailure:
    """Why a stage failed for a record."""

    key: str
    stage: str
    source: str
    """The input's name."""
    reason: str
    cause: Cause
    seconds: float = 0.0


Outcome = StageResult | StageFailure


def clips_of(video: ClipRecord) -> list[ClipRecord]:
    """Return the clips of a probed video: the video itself if it was not split."""
    spans = video.results[PROBE]["clips"]
    if len(spans) == 1:
        return [video]
    return [
        replace(video, key=f"{video.key}-{number:04}", video=video.key, item=replace(video.item, start=start, end=end))
        for number, (start, end) in enumerate(spans)
    ]


KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""Format of a clip's key, used in file names."""
REMEDY = "choose another output"
"""The remedy for an output of other settings or a damaged one."""
_Number = Annotated[float, Range(at_least=-1e15, at_most=1e15)]
_Second = _Number | None
_ANSWER = {"text": str, "finished": bool}
_VALUES: dict[str, dict[str, Any]] = {
    PROBE: {
        **dict.fromkeys(("path", "sha256", "codec"), str),
        **dict.fromkeys(("duration", "fps", "frames"), _Number),
        **dict.fromkeys(("width", "height"), int),
        "metadata": dict[str, str],
        "clips": tuple[tuple[_Second, _Second], ...],
    },
    FRAMES: {"video": str, "start": _Second, "end": _Second, "times": tuple[_Number, ...]},
    VIDEO_CAPTION: _ANSWER,
    FRAME_CAPTIONS: {"times": tuple[_Number, ...], "captions": tuple[str, ...], "finished": bool},
    SUMMARY: _ANSWER,
}
"""The fields of each stage's result."""


@dataclass(frozen=True, kw_only=True)
class _Result:
    key: str
    stage: str
    value: Mapping[str, Any]
    seconds: float

    def __post_init__(self) -> None:
        if not KEY.fullmatch(self.key):
            raise ConfigError(f"key is {self.key!r}; it must be letters, digits, - and _")
        if self.stage not in STAGES:
            raise ConfigError(f"stage is {self.stage!r}; it must be one of {', '.join(STAGES)}")
        for name, kind in _VALUES[self.stage].items():
            from_fields(kind, self.value.get(name), name)
        if not all(self.value.get(name, True) for name in ("clips", "times")):
            raise ConfigError(f"{self.stage} has no clips or no times")


@dataclass(frozen=True)
class _Model:
    stage: str
    facts: dict[str, Any]


class Journal:
    """The outcomes of all runs that have written to an output directory.

    Attributes: `results` (by key and stage), `failures` (by key, without those that a later run overcame), `finished`
    (keys of clips with a summary, in the order of their completion), `models` (facts of each stage's model). Raises
    DataError for a damaged journal.
    """

    def __init__(self, directory: Path) -> None:
        self._frames = directory / "frames"
        self._lines: Records[_Result | StageFailure] = Records(
            directory / "journal.jsonl",
            _Result | StageFailure,  # type: ignore[arg-type]
            REMEDY,
            checked=True,
        )
        self._models = Records(directory / "models.jsonl", _Model, REMEDY, checked=True)
        self.models = {model.stage: model.facts for model in self._models.rows}
        self.results: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.failures: dict[str, StageFailure] = {}
        self.finished: list[str] = []
        for line in self._lines.rows:
            self._take(line)
        for key in self.finished:
            if missing := [stage for stage in STAGES[1:] if stage not in self.results[key]]:
                raise DataError(f"{self._lines.path} has a summary of {key}, but no {missing[0]}; {REMEDY}")
            video = self.results[key][FRAMES]["video"]
            if PROBE not in self.results.get(video, {}):
                raise DataError(f"{self._lines.path} has clips of {video}, but no {PROBE}; {REMEDY}")

    def add(self, outcome: Outcome) -> None:
        """Store an outcome; OutputError if that fails, so that the next run repeats the work."""
        line: _Result | StageFailure
        if isinstance(outcome, StageResult):
            if outcome.frames:
                names = [f"{outcome.key}-{number:03}.jpg" for number in range(len(outcome.frames))]
                write_members(self._tar(outcome.key), zip(names, outcome.frames, strict=True))
            line = _Result(key=outcome.key, stage=outcome.stage, value=dict(outcome.value), seconds=outcome.seconds)
        else:
            line = outcome
        self._lines.append(line)
        self._take(line)

    def add_model(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Store the facts of a stage's loaded model; OutputError if earlier results have another model."""
        if stage in self.models:
            compare_settings(self._models.path.parent, self.models[stage], facts, REMEDY)
        elif facts:
            self._models.append(_Model(stage, dict(facts)))
            self.models[stage] = dict(facts)

    def restore(self, record: ClipRecord) -> ClipRecord:
        """Return a record with its stored results and frames."""
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

    def _take(self, line: _Result | StageFailure) -> None:
        if isinstance(line, StageFailure):
            self.failures[line.key] = line
            return
        self.failures.pop(line.key, None)
        if line.stage == SUMMARY and SUMMARY not in self.results[line.key]:
            self.finished.append(line.key)
        self.results[line.key][line.stage] = dict(line.value)
