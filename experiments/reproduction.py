"""What the paper's experiments in small share: runs that are kept, their test sets, what may be claimed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from statistics import NormalDist, median
from typing import Any

import numpy as np
import torch

from experiments.outcomes import PHOTOS, HeldOut, Outcome, Outcomes
from perception_encoder.evaluation.report import read_text, write_text
from perception_encoder.evaluation.statistics.bootstrap import student_ends
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.models.memory import keep_freed_memory
from perception_encoder.pretraining.config import PROCEDURE, PretrainingConfig
from perception_encoder.progress import Track, untracked
from perception_encoder.train.metrics import FILE as METRICS
from perception_encoder.train.metrics import Listener

ROBUST = "robustness"
"""The mean over all test sets but `PHOTOS`."""

Figures = Sequence[Mapping[str, Any]]
"""Rows with a `name`, a `value` and its interval `ci`, and what they are of."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folders and files of a reproduction."""

    photos: Path
    drawings: Path
    runs: Path
    """Each run has a folder in it, with its checkpoints and metrics."""
    result: Path
    """The JSON; what else is kept lies beside it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an experiment."""

    about: Mapping[str, Any]
    """What tells it from the others."""
    config: PretrainingConfig
    train: Callable[..., Path]
    """`pretrain` or `distill`."""
    key: str
    """Stands for its configuration."""
    needed: bool = False
    """Its weights are needed, so that it is run again where they are gone."""


class Runs:
    """The runs of a result, in its file, written after each; one that the file has is not run again.

    `jobs` at a time, each in a process of its own and on its share of the cores: two on one core each are a third
    faster than one on both.
    """

    def __init__(self, place: Place, track: Track, listener: Listener | None = None, jobs: int = 1) -> None:
        self._place, self._track, self._listener, self._jobs = place, track, listener, jobs
        self._held_out = HeldOut(place.photos, place.drawings)
        self._known = json.loads(read_text(place.result))["runs"] if place.result.exists() else {}
        self._used: dict[str, Any] = {}

    def add(self, *runs: Run) -> list[Path]:
        """Take runs from the file, or train and measure them; returns the paths of their weights."""
        paths = {run.key: self._place.runs / run.key / "model.safetensors" for run in runs}
        missing = [run for run in runs if run.key not in self._known or (run.needed and not paths[run.key].exists())]
        for key, found in self._carry_out(missing):
            self._known[key] = found
            self._write({"runs": self._known})
        self._used |= {run.key: self._known[run.key] for run in runs}
        return list(paths.values())

    def _carry_out(self, runs: Sequence[Run]) -> Iterator[tuple[str, dict[str, Any]]]:
        if self._jobs == 1 or len(runs) < 2:
            for run in runs:
                yield run.key, carry_out(run, self._place, self._listener, self._track)
            return
        yield from side_by_side(carry_out, {run.key: (run, self._place, self._listener) for run in runs}, self._jobs)

    def outcomes(self, *names: str) -> dict[tuple[Any, ...], Outcomes]:
        """What each run got right, by these entries of its `about`."""
        runs = self._used.values()
        return {tuple(run[name] for name in names): self._held_out.unpack(run["right"]) for run in runs}

    def finish(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """The result of these runs and no others, with what was found of them, written."""
        return self._write({"runs": self._used, **found})

    def _write(self, result: Mapping[str, Any]) -> dict[str, Any]:
        text = json.dumps(result, indent=1) + "\n"
        write_text(self._place.result, text)
        written: dict[str, Any] = json.loads(text)
        return written


def carry_out(run: Run, place: Place, listener: Listener | None, track: Track = untracked) -> dict[str, Any]:
    """Train and measure: the entry of a run in the result."""
    folder, data = place.runs / run.key, [place.photos, place.drawings]
    model = load_model(run.train(run.config, data, folder, track=track, listener=listener))
    held_out = HeldOut(place.photos, place.drawings)
    right = held_out.measure(Encoder(model, dtype=torch.float32), track)
    config = asdict(run.config)
    config.pop("teacher", None)  # a path of this machine; the key stands for it
    seconds = training_seconds(folder, run.config.batch_size)
    found = {"samples": run.config.samples, "seconds": seconds, "procedure": PROCEDURE, "config": config}
    return {**run.about, **found, "right": held_out.pack(right)}


def earlier_procedure(runs: Figures) -> str:
    """The sentence of a page whose runs, or some of them, were trained by the first procedure (see `PROCEDURE`)."""
    if all(run.get("procedure", 1) > 1 for run in runs):
        return ""
    return "Measured before crops were redrawn and before positions were drawn at the first resolution. "


def side_by_side(
    work: Callable[..., dict[str, Any]], arguments: Mapping[str, tuple[Any, ...]], jobs: int
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Work on several things, `jobs` at a time, each in a process of its own and on its share of the cores.

    `arguments`, by a name, are begun in their order; names and results come as they are done.
    """
    with ProcessPoolExecutor(jobs, get_context("spawn"), _share_cores, (jobs,)) as pool:
        begun = {pool.submit(work, *those): name for name, those in arguments.items()}
        for done in as_completed(begun):
            yield begun[done], done.result()


def _share_cores(jobs: int) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    keep_freed_memory()


def training_seconds(folder: Path, batch_size: int) -> int:
    """Of all parts of a run that was stopped and went on, by its metrics.

    A process that was halted, or a machine that slept, shows as a row at less than a quarter of the run's median
    speed, and counts as if it had worked at that.
    """
    rows = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    steps = [after["step"] - before["step"] for before, after in pairwise([{"step": 0}, *rows])]
    speeds = [row["samples_per_second"] for row in rows]
    usual = median(speeds)
    awake = (speed if speed > usual / 4 else usual for speed in speeds)
    return round(sum(n * batch_size / speed for n, speed in zip(steps, awake, strict=True)))


def averaged(outcomes: Outcomes) -> dict[str, list[list[Outcome]]]:
    """The sets that each average is over: each set by itself, and `ROBUST`."""
    unlike = [found for name, found in outcomes.items() if name != PHOTOS]
    return {name: [found] for name, found in outcomes.items()} | {ROBUST: unlike}


def percent(figure: Mapping[str, Any]) -> str:
    """A share and half the width of its interval."""
    low, high = figure["ci"]
    return f"{100 * figure['value']:.1f} ±{50 * (high - low):.1f}"


def points(difference: Mapping[str, Any]) -> str:
    """A difference, and its interval if it has one."""
    value, ends = difference["value"], difference["ci"]
    text = f"{100 * value:+.1f}" + ("" if ends is None else f" ({100 * ends[0]:+.1f} to {100 * ends[1]:+.1f})")
    return text.replace("-", "−")


def over_seeds(differences: Figures, by_seed: Sequence[Sequence[float]]) -> dict[str, Any]:
    """The mean of the same difference of runs with several training seeds, with an interval that includes the seeds.

    `by_seed`: the figure of every kind of run on the page, each with all seeds. What seeds do to a difference of two
    kinds is pooled over all kinds, because two seeds that happen to agree would show none. All differences are of the
    same images, so averaging them shrinks nothing of what the images do: their variance is the mean of the seeds' own.
    The interval is Student's, with the degrees of freedom of the seeds alone, which are fewer than those of the images;
    Welch and Satterthwaite's would claim too much where seeds do more than images. None for one seed.
    """
    values = [each["value"] for each in differences]
    widths = [(each["ci"][1] - each["ci"][0]) / (2 * NormalDist().inv_cdf(0.975)) for each in differences]
    of_images = sum(width**2 for width in widths) / len(widths)
    value = sum(values) / len(values)
    table = np.array(by_seed)  # (kinds, seeds)
    kinds, seeds = table.shape
    freedom = (kinds - 1) * (seeds - 1)
    if freedom == 0:
        return {"value": value, "ci": None}
    rest = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    of_seeds = 2 * float((rest**2).sum()) / freedom / seeds
    return {"value": value, "ci": student_ends(value, of_images + of_seeds, freedom)}


def claim(differences: Figures, by_seed: Sequence[Sequence[float]]) -> str:
    """ "better" or "worse" where the interval that includes the training seeds excludes zero, else "none"."""
    ends = over_seeds(differences, by_seed)["ci"]
    if ends is None:
        return "none"
    return "better" if ends[0] > 0 else "worse" if ends[1] < 0 else "none"
