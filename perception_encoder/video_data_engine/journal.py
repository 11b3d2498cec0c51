"""Records of a run, outcomes of its stages, and the journal: a line of JSON for each outcome, before work continues.

A cut-off last line is removed when the journal is read; a clip's frames are written whole before their line.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from perception_encoder.errors import DataError
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.shards import read_members, write_members
from perception_encoder.formats.tables import append_json_lines, read_appended_lines
from perception_encoder.formats.tars import TarMember
from perception_encoder.inference.listing import Item

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

    def after(self, result: StageResult) -> ClipRecord:
        """Return the record with another result."""
        results = {**self.results, result.stage: result.value}
        return replace(self, results=results, frames=result.frames or self.frames)

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


JOURNAL, FRAMES_DIRECTORY = "journal.jsonl", "frames"
KEY = re.compile(r"[A-Za-z0-9_-]{1,200}")
"""Format of a clip's key, used in file names."""
_REMEDY = "restore a copy, or choose another output"


class Journal:
    """The outcomes of all runs that have written to an output directory.

    Attributes: `results` (by key and stage), `failures` (by key, without those that a later run overcame), `finished`
    (keys of clips with a summary, in the order of their completion). Raises DataError for a damaged journal.
    """

    def __init__(self, directory: Path) -> None:
        self._path, self._frames = directory / JOURNAL, directory / FRAMES_DIRECTORY
        self.results: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.failures: dict[str, StageFailure] = {}
        self.finished: list[str] = []
        for where, line in read_appended_lines(self._path):
            try:
                self._take(_outcome(line))
            except (ValueError, TypeError) as error:
                raise DataError(f"{where} is not a line of the engine's journal: {error}; {_REMEDY}") from None
        for key in self.finished:
            if missing := [stage for stage in STAGES[1:] if stage not in self.results[key]]:
                raise DataError(f"{self._path} has a summary of {key}, but no {missing[0]}; {_REMEDY}")
            video = self.results[key][FRAMES]["video"]
            if PROBE not in self.results.get(video, {}):
                raise DataError(f"{self._path} has clips of {video}, but no {PROBE}; {_REMEDY}")

    def add(self, outcome: Outcome) -> None:
        """Store an outcome; OutputError if that fails, so that the next run repeats the work."""
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

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, StageFailure):
            self.failures[outcome.key] = outcome
            return
        self.failures.pop(outcome.key, None)
        if outcome.stage == SUMMARY and SUMMARY not in self.results[outcome.key]:
            self.finished.append(outcome.key)
        self.results[outcome.key][outcome.stage] = dict(outcome.value)


def _outcome(line: dict[str, Any]) -> Outcome:
    """Parse the outcome of a line; ValueError or TypeError says what is wrong."""
    outcome = StageResult(**line) if "value" in line else StageFailure(**line)
    texts = ("key", "stage") if isinstance(outcome, StageResult) else ("key", "stage", "source", "reason", "cause")
    _check_fields(vars(outcome), dict.fromkeys(texts, str) | {"seconds": _NUMBER})
    if not KEY.fullmatch(outcome.key):
        raise ValueError(f"`key` is {quoted(outcome.key)}; it must be letters, digits, - and _")
    if outcome.stage not in STAGES:
        raise ValueError(f"`stage` is {quoted(outcome.stage)}; it must be one of {', '.join(STAGES)}")
    if isinstance(outcome, StageResult):
        value = outcome.value
        _check_fields(value, _FIELDS[outcome.stage])
        for name in {"clips", "times"} & value.keys():
            if not value[name] or (name == "clips" and {*map(len, value[name])} != {2}):
                raise ValueError(f"`{name}` is {quoted(value[name])}, which is not valid")
        if not KEY.fullmatch(value.get("video", outcome.key)):
            raise ValueError(f"`video` is {quoted(value['video'])}, which is not valid")
        _check_fields({"metadata": [*value.get("metadata", {}).values()]}, {"metadata": [str]})
    return outcome


def _check_fields(values: Any, kinds: Mapping[str, Any]) -> None:
    for name, kind in kinds.items():
        if not isinstance(values, dict) or name not in values or not _fits(values[name], kind):
            found = values.get(name) if isinstance(values, dict) else values
            raise ValueError(f"`{name}` is {quoted(found)}, which is not valid")


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a JSON value is of a type, of one of several types, or a list of such values."""
    if isinstance(kind, list):
        return isinstance(value, list) and all(_fits(item, kind[0]) for item in value)
    is_kind = type(value) in (kind if isinstance(kind, tuple) else (kind,))
    return is_kind and (type(value) not in _NUMBER or abs(value) < 1e15)


_NUMBER, _TIME = (int, float), (int, float, type(None))
_ANSWER = {"text": str, "finished": bool}
_FIELDS: dict[str, dict[str, Any]] = {
    PROBE: {
        **dict.fromkeys(("path", "codec", "sha256"), str),
        **dict.fromkeys(("duration", "fps"), _NUMBER),
        **dict.fromkeys(("frames", "width", "height"), int),
        "metadata": dict,
        "clips": [[_TIME]],
    },
    FRAMES: {"video": str, "start": _TIME, "end": _TIME, "times": [_NUMBER]},
    VIDEO_CAPTION: _ANSWER,
    FRAME_CAPTIONS: {"times": [_NUMBER], "captions": [str], "finished": bool},
    SUMMARY: _ANSWER,
}
"""The fields of each stage's result that later stages and the outputs read."""
