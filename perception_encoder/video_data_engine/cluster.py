"""Run the stages on a Ray cluster with Ray Data: records stream through a pool of actors for each stage.

An actor reports each outcome before its record continues, so a killed run repeats only the stages in progress. When a
machine is lost, the records that are left begin anew on the others, with shares of what these have.
"""

from __future__ import annotations

import logging
import os
import pickle
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa

from perception_encoder.errors import ClusterError, PerceptionEncoderError, one_line
from perception_encoder.language_models.endpoint import KEY
from perception_encoder.language_models.load import is_endpoint
from perception_encoder.ray_cluster import Work, Worker, messages_of, on_cluster, start_log
from perception_encoder.video_data_engine.config import WorkConfig
from perception_encoder.video_data_engine.journal import ClipRecord, Outcome, StageResult
from perception_encoder.video_data_engine.local import Loaded
from perception_encoder.video_data_engine.stages import DECODING, EngineStage, Handler

logger = logging.getLogger(__name__)

Pending = Callable[[Sequence[ClipRecord]], Iterable[ClipRecord]]
"""Returns the clips of videos that are not finished, as the journal has them now."""
_Result = tuple[Outcome | PerceptionEncoderError, Mapping[str, Any]]
"""An outcome, and the facts of the model."""
_PASS = 1000
"""Number of videos per pass; passes run one after the other."""
_IDLE_PASSES = 3
"""Number of passes that may end without an outcome, each with the loss of a machine."""


def run_on_cluster(
    address: str,
    stages: Sequence[EngineStage],
    videos: Sequence[ClipRecord],
    pending: Pending,
    work: WorkConfig,
    loaded: Loaded,
) -> Generator[Outcome, None, None]:
    """Run the stages on the Ray cluster at `address`; raises what `on_cluster` does."""
    failed, idle = set[str](), 0
    for start in range(0, len(videos), _PASS):
        while waiting := [one for one in pending(videos[start : start + _PASS]) if one.key not in failed]:
            if (idle := idle + 1) > _IDLE_PASSES:
                raise ClusterError(f"the Ray cluster at {address} keeps losing machines; rerun the command to resume")
            with on_cluster(address) as stream:
                for stage, facts, outcome in map(pickle.loads, stream(_stream, stages, waiting, work)):
                    if isinstance(outcome, PerceptionEncoderError):
                        raise outcome
                    if facts:
                        loaded(stage, facts)
                    if not isinstance(outcome, StageResult):
                        failed.add(outcome.key)
                    yield outcome
                    idle = 0


def _stream(stages: Sequence[EngineStage], records: list[ClipRecord], work: WorkConfig) -> Iterator[bytes]:
    import ray
    import ray.data

    resources = ray.cluster_resources()
    cpus, gpus = float(resources.get("CPU", 1)), float(resources.get("GPU", 0))
    least = min((cpu for node in ray.nodes() if node["Alive"] and (cpu := node["Resources"].get("CPU"))), default=1.0)
    log = start_log(restarts=0)  # a new one would lack messages that later ones build on
    environment = {KEY: os.environ[KEY]} if KEY in os.environ else {}
    rows = [{"record": pickle.dumps(record)} for record in records]
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
            fn_constructor_args=(StageWork(stage, environment, work.tries), log),
            batch_size=stage.batch_size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=1, max_size=actors),
            num_cpus=min(1.0, least / (len(stages) + 1)),  # all stages fit on any machine
            num_gpus=share or None,
        )
    return messages_of(data, log)


@dataclass(frozen=True)
class StageWork(Work[ClipRecord, _Result]):
    """Takes records through one stage."""

    stage: EngineStage
    environment: Mapping[str, str]
    alone: int
    together = 1

    def open(self, device: str) -> Callable[[list[ClipRecord]], list[_Result]]:
        """Load the model; an error becomes the outcome of each record: Ray would pass on the text of a traceback."""
        os.environ.update(self.environment)
        try:
            return partial(self._results, *self.stage.open({}))
        except PerceptionEncoderError as error:
            problem: _Result = (error, {})
            return lambda records: [problem] * len(records)

    def lost(self, record: ClipRecord) -> _Result:
        """Return the failure of a record that ends its workers."""
        return record.failure(self.stage.name, f"ended its worker, or took longer than {self.stage.seconds:g} s"), {}

    def _results(self, handle: Handler, facts: Mapping[str, Any], records: list[ClipRecord]) -> list[_Result]:
        try:
            return [(outcome, facts) for outcome in self._limited(handle, records)]
        except PerceptionEncoderError as error:
            return [(error, facts)] * len(records)
        except Exception as error:
            logger.info("a stage failed", exc_info=error)
            if len(records) > 1:
                return [*chain(*(self._results(handle, facts, [record]) for record in records))]
            return [(records[0].failure(self.stage.name, f"{type(error).__name__}: {one_line(error)}"), facts)]

    def _limited(self, handle: Handler, records: list[ClipRecord]) -> list[Outcome]:
        """Handle records; when their time is up, exit this worker so that Ray starts another."""
        clock = threading.Timer(self.stage.seconds * len(records), os._exit, (1,))
        clock.daemon = True
        clock.start()
        try:
            return handle(records)
        finally:
            clock.cancel()


class StageActor(Worker[ClipRecord, _Result]):
    """A worker that takes rows through one stage; records that wait for another stage pass unchanged."""

    def __init__(self, work: StageWork, log: Any) -> None:
        super().__init__(work, log, "")
        self._stage = work.stage.name

    def __call__(self, table: pa.Table) -> pa.Table:
        """Return the records after the stage; a probed video becomes its clips, and a failure is no record."""
        import ray

        records: list[ClipRecord] = [*map(pickle.loads, table["record"].to_pylist())]
        waiting = [record for record in records if record.next_stage == self._stage]
        following = [record for record in records if record.next_stage != self._stage]
        if waiting:
            keys = [f"{self._stage} {record.key}" for record in waiting]
            results = self.results(waiting, keys)
            messages = {
                key: pickle.dumps((self._stage, facts, outcome))
                for key, (outcome, facts) in zip(keys, results, strict=True)
            }
            ray.get(self._log.report.remote(messages))
            for record, (outcome, _) in zip(waiting, results, strict=True):
                if isinstance(outcome, StageResult):
                    following += record.after(outcome)
        rows = [{"record": pickle.dumps(record)} for record in following if record.next_stage is not None]
        return pa.Table.from_pylist(rows, table.schema)
