"""The parts that the experiments in small share: cached runs, their test sets, and claims over seeds."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import torch

from experiments.differences import Gap, to_gap
from experiments.outcomes import PHOTOS, HeldOut, Outcome, Outcomes
from perception_encoder.evaluation.results import read_text
from perception_encoder.files import write_text
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.memory import keep_freed_memory
from perception_encoder.pretraining.config import PROCEDURE, PretrainingConfig
from perception_encoder.progress import Track, untracked
from perception_encoder.training.metrics import FILE as METRICS
from perception_encoder.training.metrics import Listener
from synthetic.builtin.rules import read_builtin

ROBUST = "robustness"
"""The mean over all test sets but `PHOTOS`."""

Rows = Sequence[Mapping[str, Any]]
"""Each with a `name`, a `value` and its `interval`, and further labels."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The paths of a reproduction."""

    photos: Path
    drawings: Path
    runs: Path
    """Each run has a directory in it, with its checkpoints and metrics."""
    result: Path
    """The JSON."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an experiment."""

    about: Mapping[str, Any]
    """Tells it from the others."""
    config: PretrainingConfig
    train: Callable[..., Path]
    """`pretrain`, or what stands in for it."""
    key: str
    """Identifies its configuration."""
    needed: bool = False
    """Run it again if its weights are missing."""


class Runs:
    """The runs of a result, written to its file after each; a run that the file has is not repeated.

    `jobs` run at a time, each in its own process and on its share of the cores: two on one core each are a third faster
    than one on both.
    """

    def __init__(self, paths: Paths, track: Track, listener: Listener | None = None, jobs: int = 1) -> None:
        self._paths, self._track, self._listener, self._jobs = paths, track, listener, jobs
        self._held_out = HeldOut(paths.photos, paths.drawings)
        self._known = json.loads(read_text(paths.result))["runs"] if paths.result.exists() else {}
        self._used: dict[str, Any] = {}

    def add(self, *runs: Run) -> list[Path]:
        """Take runs from the file, or train and evaluate them; return the paths of their weights."""
        paths = {run.key: self._paths.runs / run.key / "model.safetensors" for run in runs}
        missing = [run for run in runs if run.key not in self._known or (run.needed and not paths[run.key].exists())]
        for key, entry in self._carry_out(missing):
            self._known[key] = entry
            self._write({"runs": self._known})
        self._used |= {run.key: self._known[run.key] for run in runs}
        return list(paths.values())

    def _carry_out(self, runs: Sequence[Run]) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._jobs == 1 or len(runs) < 2:
            for run in runs:
                yield run.key, carry_out(run, self._paths, self._listener, self._track)
            return
        yield from side_by_side(carry_out, {run.key: (run, self._paths, self._listener) for run in runs}, self._jobs)

    def outcomes(self, *names: str) -> dict[tuple[Any, ...], Outcomes]:
        """Return what each run got right, by these entries of its `about`."""
        runs = self._used.values()
        return {tuple(run[name] for name in names): self._held_out.unpack(run["right"]) for run in runs}

    def finish(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Write and return the result of these runs and no others, with their summary."""
        return self._write({"runs": self._used, **summary})

    def _write(self, result: Mapping[str, Any]) -> dict[str, Any]:
        text = json.dumps(result, indent=1) + "\n"
        write_text(self._paths.result, text)
        content: dict[str, Any] = json.loads(text)
        return content


def carry_out(run: Run, paths: Paths, listener: Listener | None, track: Track = untracked) -> dict[str, Any]:
    """Train and evaluate a run; return its entry in the result."""
    directory, data = paths.runs / run.key, [paths.photos, paths.drawings]
    model = load_model(run.train(run.config, data, directory, track=track, listener=listener, read=read_builtin))
    held_out = HeldOut(paths.photos, paths.drawings)
    right = held_out.evaluate(Encoder.of(model, dtype=torch.float32), track)
    config = asdict(run.config)
    config.pop("teacher", None)  # a local path; the key identifies it
    seconds = training_seconds(directory, run.config.batch_size)
    training = {"samples": run.config.samples, "seconds": seconds, "procedure": PROCEDURE, "config": config}
    return {**run.about, **training, "right": held_out.pack(right)}


def side_by_side(
    work: Callable[..., dict[str, Any]], arguments: Mapping[str, tuple[Any, ...]], jobs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Call a function `jobs` times at once, each in its own process and on its share of the cores.

    `arguments`, by name, start in their order; yields names and results as they are done.
    """
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _share_cores, (jobs,)) as pool:
        names = {pool.submit(work, *values): name for name, values in arguments.items()}
        for future in as_completed(names):
            yield names[future], future.result()


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    keep_freed_memory()


def training_seconds(directory: Path, batch_size: int) -> int:
    """Return the seconds of all parts of a resumed run, by its metrics.

    A process that was halted, or a machine that slept, shows as a row at less than a quarter of the run's median
    speed, and counts as if it had run at the median.
    """
    rows = [json.loads(line) for line in (directory / METRICS).read_text(encoding="utf-8").splitlines()]
    steps = [after["step"] - before["step"] for before, after in pairwise([{"step": 0}, *rows])]
    speeds = [row["samples_per_second"] for row in rows]
    usual = median(speeds)
    awake = (speed if speed > usual / 4 else usual for speed in speeds)
    return round(sum(n * batch_size / speed for n, speed in zip(steps, awake, strict=True)))


def averaged(outcomes: Outcomes) -> dict[str, list[list[Outcome]]]:
    """Return the sets that each average is over: each set by itself, and `ROBUST`."""
    unlike = [tasks for name, tasks in outcomes.items() if name != PHOTOS]
    return {name: [tasks] for name, tasks in outcomes.items()} | {ROBUST: unlike}


def find_rows(rows: Rows, **labels: object) -> list[Mapping[str, Any]]:
    """Return the rows that have these labels."""
    return [row for row in rows if all(row[name] == label for name, label in labels.items())]


def over_seeds(differences: Rows, ours: Rows, theirs: Rows, kinds: Sequence[Rows]) -> Gap:
    """Return the mean of a difference over training seeds, with the effect of seeds.

    `differences`, `ours`, `theirs`: rows, one for each seed; `kinds`: those of every kind of run on the page. All
    differences are of the same images, so averaging them does not shrink the effect of images: their variance is the
    mean of the seeds' own.
    """
    widths = [
        (difference["interval"][1] - difference["interval"][0]) / (2 * NormalDist().inv_cdf(0.975))
        for difference in differences
    ]
    row = {
        "value": sum(value["value"] for value in differences) / len(differences),
        "standard_error": (sum(width**2 for width in widths) / len(widths)) ** 0.5,
        "blocks": differences[0]["n"],
    }
    values = [[item["value"] for item in rows] for rows in (ours, theirs, *kinds)]
    return to_gap(row, values[0], values[1], values[2:])
