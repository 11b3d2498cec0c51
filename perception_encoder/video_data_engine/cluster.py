"""Run the stages on a Ray cluster with Ray Data: records stream through a pool of actors for each stage.

A record is stored when it has passed all stages, so a killed run repeats its clips in flight.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from perception_encoder.errors import PerceptionEncoderError, one_line
from perception_encoder.language_alignment.endpoint import KEY
from perception_encoder.language_alignment.load import is_endpoint
from perception_encoder.ray_cluster import count_work, on_cluster
from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.journal import PROBE, ClipRecord, Outcome, StageResult, clips_of
from perception_encoder.video_data_engine.local import Loaded
from perception_encoder.video_data_engine.stages import DECODING, EngineStage

logger = logging.getLogger(__name__)

_Row = tuple[ClipRecord, list[Any], dict[str, Any]]
"""A record, its outcomes, and the facts of the models that it has passed, by stage."""
_PASS = 1000
"""Number of records per pass; passes run one after the other."""


def run_on_cluster(
    address: str, stages: Sequence[EngineStage], records: Iterable[ClipRecord], work: WorkConfig, loaded: Loaded
) -> Generator[Outcome, None, None]:
    """Run the stages on the Ray cluster at `address`; raises what `on_cluster` does."""
    known: set[str] = set()
    waiting = list(records)
    with on_cluster(address) as stream:
        for start in range(0, len(waiting), _PASS):
            for row in stream(_stream, stages, waiting[start : start + _PASS], work):
                _, outcomes, models = pickle.loads(row["row"])
                for stage in models.keys() - known:
                    known.add(stage)
                    loaded(stage, models[stage])
                for outcome in outcomes:
                    if isinstance(outcome, PerceptionEncoderError):
                        raise outcome
                    yield outcome


def _stream(stages: Sequence[EngineStage], records: list[ClipRecord], work: WorkConfig) -> Iterator[dict[str, Any]]:
    import ray
    import ray.data

    resources = ray.cluster_resources()
    cpus, gpus = float(resources.get("CPU", 1)), float(resources.get("GPU", 0))
    attempts = count_work()
    environment = {KEY: os.environ[KEY]} if KEY in os.environ else {}
    rows = [{"row": pickle.dumps((record, [], {}))} for record in records]
    data: Any = ray.data.from_items(rows, override_num_blocks=len(rows))
    models = [stage for stage in stages if stage.group != DECODING and not is_endpoint(stage.group)]
    per_model = gpus / (len(models) or 1)  # with fewer GPUs than models, these share them
    for stage in stages:
        actors, share = 1, 0.0
        if stage.group == DECODING:
            actors = max(1, min(work.workers, int(cpus)))
        elif stage in models:
            actors, share = max(1, int(per_model)), min(1.0, per_model)
        data = data.map_batches(
            StageActor,
            fn_constructor_args=(stage, work.tries, attempts, environment),
            batch_size=stage.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=min(1.0, cpus / (len(stages) + 1)),
            num_gpus=share or None,
        )
    yield from data.iter_rows()


class StageActor:
    """A worker of the cluster that takes rows through one stage; rows that wait for another stage pass unchanged."""

    def __init__(self, stage: EngineStage, tries: int, attempts: Any, environment: dict[str, str]) -> None:
        os.environ.update(environment)
        self._stage, self._tries, self._attempts = stage, tries, attempts
        self._problem: PerceptionEncoderError | None = None
        try:
            self._handle, self._facts = stage.open({})
        except PerceptionEncoderError as error:  # Ray would pass it on as the text of a traceback
            self._problem = error

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the rows after the stage; a probed video becomes one row for each clip."""
        waiting: list[_Row] = []
        results: list[_Row] = []
        for row in map(pickle.loads, table["row"].to_pylist()):
            record, outcomes, _ = row
            is_over = bool(outcomes) and not isinstance(outcomes[-1], StageResult)
            (waiting if record.next_stage == self._stage.name and not is_over else results).append(row)
        if waiting:
            handled = self._outcomes([record for record, *_ in waiting])
            for (record, outcomes, facts), outcome in zip(waiting, handled, strict=True):
                results += self._after(record, [*outcomes, outcome], facts)
        return pa.Table.from_pylist([{"row": pickle.dumps(row)} for row in results], table.schema)

    def _after(self, record: ClipRecord, outcomes: list[Any], facts: dict[str, Any]) -> list[_Row]:
        result = outcomes[-1]
        if not isinstance(result, StageResult):
            return [(record, outcomes, facts)]
        record, facts = record.after(result), {**facts, self._stage.name: self._facts}
        clips = clips_of(record) if result.stage == PROBE else [record]
        return [(clip, [] if number else outcomes, facts) for number, clip in enumerate(clips)]

    def _outcomes(self, records: list[ClipRecord]) -> list[Outcome | PerceptionEncoderError]:
        if self._problem is not None:
            return [self._problem] * len(records)
        if max(self._begin("together", record) for record in records) == 1:
            try:
                return [*self._limited(records)]
            except PerceptionEncoderError as error:
                return [error] * len(records)
            except Exception as error:
                logger.info("a stage failed", exc_info=error)
        return [self._alone(record) for record in records]  # one of them crashed a worker, or failed

    def _alone(self, record: ClipRecord) -> Outcome | PerceptionEncoderError:
        if self._begin("alone", record) > self._tries:
            return record.failure(self._stage.name, f"ended its worker, or took longer than {self._stage.seconds:g} s")
        try:
            return self._limited([record])[0]
        except PerceptionEncoderError as error:
            return error
        except Exception as error:
            return record.failure(self._stage.name, f"{type(error).__name__}: {one_line(error)}")

    def _begin(self, how: str, record: ClipRecord) -> int:
        import ray

        return ray.get(self._attempts.begin.remote(f"{how} {self._stage.name} {record.key}"))

    def _limited(self, records: list[ClipRecord]) -> list[Outcome]:
        """Handle records; when their time is up, exit this worker so that Ray starts another."""
        clock = threading.Timer(self._stage.seconds * len(records), os._exit, (1,))
        clock.daemon = True
        clock.start()
        try:
            return self._handle(records)
        finally:
            clock.cancel()
