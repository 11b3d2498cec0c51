"""Run the engine: videos to clips with captions, in a directory that a later run with the same command completes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from perception_encoder.errors import DataError, EndpointError
from perception_encoder.files import holding, writing
from perception_encoder.language_alignment.load import check_name
from perception_encoder.video_data_engine.config import EngineConfig, WorkConfig
from perception_encoder.video_data_engine.journal import Journal
from perception_encoder.video_data_engine.local import Loaded, run_local
from perception_encoder.video_data_engine.outputs import write_captions, write_quarantine, write_shards
from perception_encoder.video_data_engine.record import PROBE, ClipRecord, Outcome, StageFailure, clips_of
from perception_encoder.video_data_engine.report import EngineReport
from perception_encoder.video_data_engine.settings import EngineSettings
from perception_encoder.video_data_engine.stages import AnswerStage, EngineStage, make_stages
from perception_encoder.video_data_engine.videos.listing import list_videos

EngineListener = Callable[[EngineReport], None]


def run_engine(
    videos: Iterable[str | Path],
    out: Path,
    config: EngineConfig | None = None,
    work: WorkConfig | None = None,
    *,
    ray: str | None = None,
    retry: bool = False,
    listener: EngineListener | None = None,
) -> EngineReport:
    """Caption videos into `out`, or go on with it; return the counts.

    `videos`: paths, directories, globs, tars and tables, as `list_items` takes them. `ray`: the address of a Ray
    cluster that does the work, see `run_on_cluster`. `retry`: try again what is in quarantine; failures of a service
    are tried again anyway. `listener` is called after each step. Writes `captions.parquet`, `shards/`,
    `quarantine.jsonl`, `frames/`, `journal.jsonl` and `settings.json`. Raises DataError without videos, ConfigError,
    OutputError (also if another run is writing there, or earlier results are of another configuration), EndpointError
    if a service is out of order, and what loading a model raises.
    """
    config, work = config or EngineConfig(), work or WorkConfig()
    for name in (config.captioner, config.frame_captioner, config.llm):
        check_name(name)
    stages = make_stages(config, work)
    videos = list(videos)
    listed = list(list_videos(videos))
    if not listed:
        raise DataError(f"no videos in {', '.join(map(str, videos))}")
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
    with holding(out / "lock", f"another run is writing {out}; wait for it, or choose another output"):
        prompts = [stage.prompt for stage in stages if isinstance(stage, AnswerStage)]
        settings = EngineSettings(out, config, prompts)
        journal, report = Journal(out), EngineReport(len(listed))
        records, items = _pending(listed, journal, report, retry), {record.key: record.item for record in listed}
        guard = _ServiceGuard(work.failures_in_a_row)
        for outcome in _outcomes(ray, stages, records, work, settings.add_model):
            guard.check(outcome)
            journal.add(outcome)
            report.add(outcome)
            report.clips = len(journal.finished)
            if report.clips and report.clips % work.shard_samples == 0:
                write_shards(out, journal, settings.values["models"], work.shard_samples, items, whole_only=True)
            if listener is not None:
                listener(report)
        report.clips, report.quarantine = len(journal.finished), list(journal.failures.values())
        write_captions(out, journal, settings.values["models"])
        write_shards(out, journal, settings.values["models"], work.shard_samples, items)
        write_quarantine(out, journal)
    return report


def _outcomes(
    ray: str | None, stages: Sequence[EngineStage], records: Iterator[ClipRecord], work: WorkConfig, loaded: Loaded
) -> Iterator[Outcome]:
    if ray is None:
        return run_local(stages, records, work, loaded)
    from perception_encoder.video_data_engine.cluster import run_on_cluster

    return run_on_cluster(ray, stages, records, work, loaded)


def _pending(listed: Sequence[ClipRecord], journal: Journal, report: EngineReport, retry: bool) -> Iterator[ClipRecord]:
    """Yield what is left to do: videos that are not probed, and clips that are not finished."""
    for video in listed:
        restored = journal.restore(video)
        clips = clips_of(restored) if PROBE in restored.results else [restored]
        waiting = [clip for clip in map(journal.restore, clips) if _is_pending(clip, journal, retry)]
        report.skipped += not waiting
        yield from waiting


def _is_pending(record: ClipRecord, journal: Journal, retry: bool) -> bool:
    failure = journal.failures.get(record.key)
    in_quarantine = failure is not None and failure.cause != "service" and not retry
    return record.next_stage is not None and not in_quarantine


class _ServiceGuard:
    """Stops a run whose service is out of order, so that not every video fails by it."""

    def __init__(self, most: int) -> None:
        self._most, self._count = most, dict[str, int]()

    def check(self, outcome: Outcome) -> None:
        """Raise EndpointError after so many failures of a service in a row."""
        is_failure = isinstance(outcome, StageFailure) and outcome.cause == "service"
        self._count[outcome.stage] = self._count.get(outcome.stage, 0) + 1 if is_failure else 0
        if isinstance(outcome, StageFailure) and self._count[outcome.stage] >= self._most:
            raise EndpointError(
                f"{outcome.stage} failed for {self._most} clips in a row, at last: {outcome.reason}; "
                "what is done is stored: give the same command again when the service is back"
            )
