"""Time contenders in turn, and refuse rates that drift."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median, quantiles
from typing import Any

from perception_encoder.errors import PerceptionEncoderError

MIN_ROUNDS = 10
MAX_DRIFT = 0.15
"""Maximum difference between a contender's medians over the first and the last third of the rounds."""


class DriftError(PerceptionEncoderError):
    """The machine changed its speed during a run."""


def seconds_of(run: Callable[[], object]) -> float:
    """Return the seconds of a call by the clock."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def time_rounds(
    runs: Mapping[str, Callable[[], object]],
    inputs: int,
    seconds: float,
    least: int = MIN_ROUNDS,
    timed: Callable[[Callable[[], object]], float] = seconds_of,
) -> dict[str, list[float]]:
    """Return the inputs a second of each contender, a value a round, after a round that does not count.

    Each round calls every contender once, starting with a different one. `seconds`: time for all rounds; there are
    `least` at least. `timed`: calls one, and returns its seconds.
    """
    labels, rounds = list(runs), 0
    speeds: dict[str, list[float]] = {label: [] for label in labels}
    for run in runs.values():
        run()
    begin = time.perf_counter()
    while rounds < least or time.perf_counter() - begin < seconds:
        first = rounds % len(labels)
        for label in labels[first:] + labels[:first]:
            speeds[label].append(round(inputs / timed(runs[label]), 3))
        rounds += 1
    return speeds


def summarise(speeds: Mapping[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return each contender's median and quartiles, and its medians over the first and the last third of the rounds."""
    summary = {}
    for label, rates in speeds.items():
        third, (low, middle, high) = len(rates) // 3, quantiles(rates, method="inclusive")
        ends = [median(rates[:third]), median(rates[-third:])]
        summary[label] = {"median": middle, "quartiles": [low, high], "first and last third": ends}
    return summary


def as_text(summary: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line for each contender."""
    lines = []
    for label, row in summary.items():
        (low, high), (first, last) = row["quartiles"], row["first and last third"]
        line = f"{label:46} {row['median']:8.4g}/s, quartiles {low:.4g} to {high:.4g}, thirds {first:.4g}, {last:.4g}"
        lines.append(line)
    return "\n".join(lines)


def check_drift(summary: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise DriftError if a contender's first and last third differ by more than `MAX_DRIFT`."""
    drifts = {label: _drift(*row["first and last third"]) for label, row in summary.items()}
    if drifting := {label: drift for label, drift in drifts.items() if drift > MAX_DRIFT}:
        named = ", ".join(f"{label} by {drift:.0%}" for label, drift in drifting.items())
        raise DriftError(
            f"the first and the last third of the rounds differ by more than {MAX_DRIFT:.0%}: {named}; stop other "
            "programs, let the machine cool, and run it again"
        )


def _drift(first: float, last: float) -> float:
    return max(first, last) / min(first, last) - 1
