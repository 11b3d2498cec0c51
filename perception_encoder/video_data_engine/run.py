"""Run the engine: turn videos into captioned clips, in a directory that later runs with the same settings complete."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from perception_encoder.errors import DataError, EndpointError
from perception_encoder.language_models.load import check_assistant_name
from perception_encoder.models.defaults import language_model
from perception_encoder.preprocess.source import as_paths
from perception_encoder.records import parse_json
from perception_encoder.store import SETTINGS, Store, reading
from perception_encoder.video_data_engine.config import FRAME_CAPTION, SUMMARY, EngineConfig, WorkConfig
from perception_encoder.video_data_engine.journal import (
    PROBE,
    REMEDY,
    STAGES,
    ClipRecord,
    Journal,
    Outcome,
    StageFailure,
    clips_of,
)
from perception_encoder.video_data_engine.local import run_local
from perception_encoder.video_data_engine.outputs import write_captions, write_quarantine, write_shards
from perception_encoder.video_data_engine.stages import AnswerStage, make_stages
from perception_encoder.video_data_engine.videos import list_videos

EngineListener = Callable[["EngineReport"], None]


def run_engine(
    videos: str | Path | Iterable[str | Path],
    out: str | Path,
    captioner: str | None = None,
    *,
    frame_captioner: str | None = None,
    llm: str | None = None,
    video_prompt: str | None = None,
    frame_prompt: str = FRAME_CAPTION,
    summary_prompt: str = SUMMARY,
    frames: int = 8,
    captioned_frames: int = 3,
    longest: float = 30.0,
    workers: int = 2,
    batch_size: int = 8,
    timeout: float = 120.0,
    tries: int = 3,
    ray: str | None = None,
    retry: bool = False,
    listener: EngineListener | None = None,
) -> EngineReport:
    """Turn videos into captioned clips for training, or resume.

    Args:
        videos: Paths, directories, globs, tars and tables.
        out: The directory that gets `captions.parquet`, `shards/` (WebDataset), `quarantine.jsonl` (failures),
            `frames/`, and the journal of the run.
        captioner, frame_captioner, llm: Models of any form that `load_assistant` takes; by default that of `pe models
            use`.
        video_prompt, frame_prompt, summary_prompt: Names of the package's prompts, or text files.
        frames: Frames of a clip that the captioner sees.
        captioned_frames: Frames that are also captioned one by one.
        longest: Seconds above which a video is split.
        workers: Processes that decode.
        batch_size: Clips captioned at once.
        timeout, tries: Seconds for one attempt at one item, and the number of attempts.
        ray: Address of a Ray cluster that does the work.
        retry: Also retry clips in quarantine; failures of a service are always retried.
        listener: Called after each step with the counts so far.

    Raises:
        DataError: There are no videos.
        OutputError: Another run writes `out`, or earlier results are of other settings.
        EndpointError: A service is down.
        ConfigError: A prompt or a number is invalid.
        ModelError: A model cannot be loaded.

    Examples:
        >>> model, llm = "facebook/Perception-LM-1B", "http://127.0.0.1:8000/v1#qwen3-8b"
        >>> report = pe.run_engine("clips/", "captioned/", model, llm=llm)
    """
    config = EngineConfig(
        captioner=language_model(captioner),
        frame_captioner=frame_captioner or "",
        llm=llm or "",
        video_prompt=video_prompt or "",
        frame_prompt=frame_prompt,
        summary_prompt=summary_prompt,
        frames=frames,
        captioned_frames=captioned_frames,
        longest=longest,
    )
    work = WorkConfig(workers=workers, batch_size=batch_size, timeout=timeout, tries=tries)
    videos = as_paths(videos)
    return caption_videos(videos, Path(out), config, work, ray=ray, retry=retry, listener=listener)


def caption_videos(
    videos: Iterable[str | Path],
    out: Path,
    config: EngineConfig | None = None,
    work: WorkConfig | None = None,
    *,
    ray: str | None = None,
    retry: bool = False,
    listener: EngineListener | None = None,
) -> EngineReport:
    """Run the engine as `run_engine` does, with all settings in two objects."""
    config, work = config or EngineConfig(), work or WorkConfig()
    for name in (config.captioner, config.frame_captioner, config.llm):
        check_assistant_name(name)
    stages = make_stages(config, work)
    videos = list(videos)
    listed = list(list_videos(videos))
    if not listed:
        raise DataError(f"no videos in {', '.join(map(str, videos))}")
    prompts = {stage.prompt.name: stage.prompt.text for stage in stages if isinstance(stage, AnswerStage)}
    with Store(out, {"config": asdict(config), "prompts": prompts}, remedy=REMEDY):
        journal, report = Journal(out), EngineReport(len(listed))
        pending, items = _Pending(journal, retry), {record.key: record.item for record in listed}
        if ray is None:
            outcomes = run_local(stages, pending(listed), work, journal.add_model)
        else:
            from perception_encoder.video_data_engine.cluster import run_on_cluster

            outcomes = run_on_cluster(ray, stages, listed, pending, work, journal.add_model)
        down = Counter[str]()
        with closing(outcomes):
            for outcome in outcomes:
                if isinstance(outcome, StageFailure) and outcome.cause == "service":
                    down[outcome.stage] += 1
                    if down[outcome.stage] >= work.failures_in_a_row:  # before every clip fails
                        raise EndpointError(
                            f"{outcome.stage} failed for {work.failures_in_a_row} clips in a row, most recently: "
                            f"{outcome.reason}; finished work is stored: rerun the same command when it is back"
                        )
                else:
                    down[outcome.stage] = 0
                journal.add(outcome)
                report.add(outcome)
                report.clips = len(journal.finished)
                if listener is not None:
                    listener(report)
        report.skipped = len(listed) - len(pending.videos)
        report.clips, report.quarantine = len(journal.finished), list(journal.failures.values())
        write_captions(out, journal)
        write_shards(out, journal, items)
        write_quarantine(out, journal)
    return report


class _Pending:
    """The clips to work on, as the journal has them when they are asked for; `videos`: keys of those that had any."""

    def __init__(self, journal: Journal, retry: bool) -> None:
        self._journal, self.videos = journal, set[str]()
        self._quarantine = {
            key for key, failure in journal.failures.items() if failure.cause != "service" and not retry
        }

    def __call__(self, videos: Iterable[ClipRecord]) -> Iterator[ClipRecord]:
        for video in videos:
            restored = self._journal.restore(video)
            clips = map(self._journal.restore, clips_of(restored)) if PROBE in restored.results else [restored]
            for clip in clips:
                if clip.next_stage is not None and clip.key not in self._quarantine:
                    self.videos.add(video.key)
                    yield clip


@dataclass(frozen=True)
class StageRow:
    """A row of the table of stages."""

    stage: str
    done: int
    failed: int
    seconds: float
    """Seconds of work, over all processes."""
    share: float
    """Share of the work of all stages, in 0–1."""


class EngineReport:
    """Counts of one run.

    Attributes: `videos` (listed), `skipped` (finished before, or in quarantine), `clips` (finished in all runs),
    `quarantine` (failures of all runs, set at the end), `wall` (seconds).
    """

    def __init__(self, videos: int) -> None:
        self.videos, self.skipped, self.clips = videos, 0, 0
        self.quarantine: list[StageFailure] = []
        self.done, self.failed = Counter[str](), Counter[str]()
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._started = time.monotonic()
        self.wall = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count an outcome."""
        self.seconds[outcome.stage] += outcome.seconds
        (self.failed if isinstance(outcome, StageFailure) else self.done)[outcome.stage] += 1
        self.wall = time.monotonic() - self._started

    def rows(self) -> list[StageRow]:
        """Return the stages in order."""
        total = sum(self.seconds.values()) or 1.0
        return [
            StageRow(stage, self.done[stage], self.failed[stage], seconds, seconds / total)
            for stage, seconds in self.seconds.items()
        ]

    @property
    def videos_per_minute(self) -> float:
        """Probed videos per minute of wall-clock time."""
        return 60 * self.done[PROBE] / self.wall if self.wall else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "videos": self.videos,
            "skipped": self.skipped,
            "clips": self.clips,
            "quarantine": len(self.quarantine),
            "seconds": round(self.wall, 2),
            "videos_per_minute": round(self.videos_per_minute, 2),
            "stages": [
                {**vars(row), "seconds": round(row.seconds, 2), "share": round(row.share, 4)} for row in self.rows()
            ],
        }


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The settings of an output: its `settings.json`."""

    config: EngineConfig
    prompts: Mapping[str, str]
    """Texts by name."""


def read_engine_settings(out: Path) -> EngineSettings:
    """Read the settings of an output; DataError if `out` is not an output or the settings are damaged."""
    path = out / SETTINGS
    if not path.is_file():
        raise DataError(f"{out} is not an output of `pe engine run`: it has no {SETTINGS}")
    with reading(path, REMEDY):
        return parse_json(path.read_bytes(), EngineSettings)
