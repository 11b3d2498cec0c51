"""Run a stage in a directory: lock it, record the run, train or resume, and write the last and the best weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import platform
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from torch import nn

from perception_encoder.errors import ConfigError
from perception_encoder.files import replacing, write_json, writing
from perception_encoder.models.checkpoints.find import RECORD, file_inside
from perception_encoder.preprocess.source import escape_name
from perception_encoder.progress import Track, untracked
from perception_encoder.records import parse_json
from perception_encoder.training.checkpoint import BEST, check_run, find_checkpoints, load_weights, run_directory
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.distributed import process_group, whole_model
from perception_encoder.training.loop import Section, choose_metric, train_steps
from perception_encoder.training.metrics import Listener

logger = logging.getLogger(__name__)

RANDOM = "random weights"


class Trainee(Protocol):
    """The model of a run, with additions for training."""

    @property
    def module(self) -> nn.Module:
        """The trained module, whose weights a checkpoint holds."""
        ...

    def write(self, path: Path) -> None: ...


class StageRun(ABC):
    """A run of one stage: its model, its batches and its task.

    A subclass reads the data in `__init__`, where it sets `identity` and `samples`. What takes long is left to
    `sections`, which begins only if the directory does not hold another run; `trainee` is set by then, and `loaded`.
    """

    weights: ClassVar[str] = "model.safetensors"  # name of the written file
    identity: Sequence[str]
    """Everything but the configuration that the result depends on: data, initial weights, version."""
    samples: Mapping[str, int]  # number of training samples by source
    loaded: Mapping[str, str]  # the name or the file from which each part of the model was loaded, or `RANDOM`
    trainee: Trainee

    def __init__(self, config: TrainingConfig, out: Path, higher_is_better: Mapping[str, bool] | None = None) -> None:
        """`higher_is_better`: the validation's metrics, if known, to reject a wrong `validation.metric` here.

        `config.initial`, of stages that have it, may be a run's directory: `self.config` has the file in it. Raises
        ConfigError for a wrong metric, and for a warm-up longer than the run.
        """
        initial = getattr(config, "initial", None)
        if initial is not None and Path(initial).is_dir():
            config = dataclasses.replace(config, initial=str(file_inside(Path(initial), self.weights)))  # type: ignore[call-arg]
        self.config, self.out = config, out
        if config.warmup > config.steps:
            raise ConfigError(f"warmup is {config.warmup}; it must be at most the steps of the run, {config.steps}")
        if config.validation and higher_is_better:
            choose_metric(config.validation, higher_is_better)

    @abstractmethod
    def sections(self, track: Track) -> Iterator[Section]:
        """Prepare the model and the batches, and yield the unfinished sections (at least the last one)."""

    def rebuild(self, step: int) -> Trainee:
        """Return a model to load the checkpoint of a step into: the trained one, unless writing it has changed it."""
        return self.trainee

    def describe(self, path: Path) -> dict[str, Any]:
        """Return the record's entry on the written weights."""
        return {}

    def close(self) -> None:
        """Close what the run has open, however it ends."""
        return

    @property
    def done(self) -> int:
        """Steps of the newest checkpoint; 0 without one."""
        return max((state.step for _, state in find_checkpoints(self.out)), default=0)

    @property
    def fingerprint(self) -> str:
        """Identity of the configuration, the data and everything else that the result depends on."""
        return self.config.fingerprint(self.identity)


def run_stage(
    open_run: Callable[[], StageRun], out: Path, track: Track = untracked, listener: Listener | None = None
) -> Path:
    """Train or resume in a directory, and return the written weights; a validated run also writes OUT/best.safetensors.

    Raises what `open_run` does, CheckpointError if the directory holds another run, and OutputError if one is training
    in it.
    """
    with process_group() as rank, run_directory(out), closing(open_run()) as run:
        trained, metric = 0, ""
        check_run(out, run.fingerprint, describe_changes(out / RECORD, run.config))
        record = describe_run(run.config, run.fingerprint, run.samples)
        if rank.is_first:
            write_json(out / RECORD, record)
        for section in run.sections(track):
            if not trained and rank.is_first:
                logger.info("loaded: %s", "; ".join(f"{part}: {escape_name(of)}" for part, of in run.loaded.items()))
            metric = train_steps(section, run.config, out, run.fingerprint, listener, trained)
            trained = section.end or run.config.steps
        whole_model(run.trainee.module)
        path = out / run.weights
        if rank.is_first:
            run.trainee.write(path)
            write_json(out / RECORD, record | run.describe(path) | _write_best(run, path, metric))
        return path


def describe_run(config: TrainingConfig, fingerprint: str, samples: Mapping[str, int]) -> dict[str, Any]:
    """Return the record of a run: resolved configuration, samples by source, versions."""
    return {
        "config": dataclasses.asdict(config),
        "fingerprint": fingerprint,
        "samples": dict(samples),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }


def describe_changes(record: Path, config: TrainingConfig) -> str:
    """Return which settings differ from those of a run's record; empty if none does, or if it cannot be read."""
    try:
        earlier = _flatten(parse_json(record.read_bytes(), dict[str, Any])["config"])
    except (OSError, ValueError, KeyError):
        return ""
    now = _flatten(json.loads(json.dumps(dataclasses.asdict(config))))
    pairs = {name: (json.dumps(earlier.get(name)), json.dumps(now.get(name))) for name in {**earlier, **now}}
    return ", ".join(f"{name} was {old}, is now {new}" for name, (old, new) in pairs.items() if old != new)


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the plain values of nested settings by their names, such as `stages.0.steps`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if not items:
        return {name: value}
    return {key: item for part, below in items for key, item in _flatten(below, f"{name}.{part}".lstrip(".")).items()}


def _write_best(run: StageRun, weights: Path, metric: str) -> dict[str, Any]:
    """Write the best step's weights beside the last ones; return their entry for the record, empty without a score."""
    if run.config.validation is None:
        return {}
    best, (_, state) = weights.with_name(BEST), find_checkpoints(run.out)[0]
    if state.best_step is None:
        return {}
    if state.best_step == run.config.steps:
        with writing(best), replacing(best) as temporary:
            shutil.copyfile(weights, temporary)
    else:
        trainee = run.rebuild(state.best_step)
        load_weights(run.out, state.best_step, trainee.module)
        trainee.write(best)
    return {"best": {"step": state.best_step, metric: state.best}}
