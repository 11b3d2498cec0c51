"""What the paper's experiments in small share: runs that are kept, their test sets, what may be claimed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from perception_encoder.data.progress import Track
from perception_encoder.evaluation.outcomes import PHOTOS, HeldOut, Outcomes
from perception_encoder.evaluation.paired import Outcome
from perception_encoder.evaluation.report import read_text, write_text
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.weights import load_model
from perception_encoder.pretraining.run import PretrainingConfig
from perception_encoder.train.metrics import FILE as METRICS

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


class Runs:
    """The runs of a result, in its file, written after each; one that the file has is not run again.

    A run's key stands for its configuration.
    """

    def __init__(self, place: Place, track: Track) -> None:
        self._place, self._track = place, track
        self._held_out = HeldOut(place.photos, place.drawings)
        self._known = json.loads(read_text(place.result))["runs"] if place.result.exists() else {}
        self._used: dict[str, Any] = {}

    def add(
        self,
        key: str,
        about: Mapping[str, Any],
        config: PretrainingConfig,
        train: Callable[[Path], Path],
        needed: Path | None = None,
    ) -> Path:
        """Take a run from the file, or train and measure it; returns the path of its weights.

        `about`: what tells it from the others. `needed`: a file of it without which it is run again.
        """
        folder = self._place.runs / key
        if key not in self._known or (needed is not None and not needed.exists()):
            model = load_model(train(folder))
            found = {**about, "samples": config.samples, "seconds": training_seconds(folder, config.batch_size)}
            right = self._held_out.measure(Encoder(model, dtype=torch.float32), self._track)
            self._known[key] = found | {"config": asdict(config), "right": self._held_out.pack(right)}
            self._known[key]["config"].pop("teacher", None)  # a path of this machine; the key stands for it
            self._write({"runs": self._known})
        self._used[key] = self._known[key]
        return folder / "model.safetensors"

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


def training_seconds(folder: Path, batch_size: int) -> int:
    """Of all parts of a run that was stopped and went on, by its metrics."""
    rows = [json.loads(line) for line in (folder / METRICS).read_text(encoding="utf-8").splitlines()]
    starts = [0, *(row["step"] for row in rows)]
    steps = (row["step"] - start for row, start in zip(rows, starts, strict=False))
    return round(sum(n * batch_size / row["samples_per_second"] for n, row in zip(steps, rows, strict=True)))


def averaged(outcomes: Outcomes) -> dict[str, list[list[Outcome]]]:
    """The sets that each average is over: each set by itself, and `ROBUST`."""
    unlike = [found for name, found in outcomes.items() if name != PHOTOS]
    return {name: [found] for name, found in outcomes.items()} | {ROBUST: unlike}


def percent(figure: Mapping[str, Any]) -> str:
    """A share and half the width of its interval."""
    low, high = figure["ci"]
    return f"{100 * figure['value']:.1f} ±{50 * (high - low):.1f}"


def points(difference: Mapping[str, Any]) -> str:
    """A difference and its interval."""
    low, high = difference["ci"]
    return f"{100 * difference['value']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def claim(differences: Figures) -> str:
    """ "better" or "worse" where the intervals of all seeds exclude zero on the same side, else "none"."""
    if all(d["ci"][0] > 0 for d in differences):
        return "better"
    return "worse" if all(d["ci"][1] < 0 for d in differences) else "none"
