"""The tables of docs/results/gpu.md: what `python -m benchmarks.gpu` measured on a card beside the best peer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from benchmarks.gpu.jobs import DEFAULT, JOBS, OURS, Job
from benchmarks.results import Rows, Tables

TITLES = {"image": "Images", "text": "Texts", "train": "Training", "generate": "Generation"}
UNITS = {"image": "images/s", "text": "texts/s", "train": "steps/s", "generate": "tokens/s"}
NONE = "–"


def gpu_tables(result: Mapping[str, Any]) -> Tables:
    """Return a table a kind of job, and one of what was skipped; dashes for what was not measured."""
    tables: dict[str, Rows] = {}
    for kind, title in TITLES.items():
        head = (
            "model",
            "card",
            f"ours by default, {UNITS[kind]}",
            "ours at best",
            "best peer",
            "ratio",
            "memory: ours, peer",
        )
        tables[title] = [head, *(_row(job, result["jobs"].get(job.name)) for job in JOBS if job.kind == kind)]
    skipped: Rows = [(name, "all", why) for name, why in result["skipped"].items()]
    for name, job in result["jobs"].items():
        skipped += [(name, label, why) for label, why in job["skipped"].items()]
    return tables | ({"Skipped": [("job", "contender", "why"), *skipped]} if skipped else {})


def _row(job: Job, result: Mapping[str, Any] | None) -> Sequence[str]:
    name = job.model.removeprefix("PE-Core-")
    if result is None:
        return name, *[NONE] * 6
    inputs = result["count"] if job.kind == "train" else 1  # a step computes them all
    rates = {label: median(values) / inputs for label, values in result["speeds"].items()}
    ours = _best({label: rate for label, rate in rates.items() if label.startswith(OURS)})
    peer = _best({label: rate for label, rate in rates.items() if not label.startswith(OURS)})
    default = rates.get(f"{OURS}, {DEFAULT}")
    memory = [_gigabytes(result["memory"].get(label)) for label in (ours, peer)]
    return (
        f"{name}, {result['count']} a step" if job.kind == "train" else name,
        result["machine"]["card"],
        NONE if default is None else f"{default:.3g}",
        NONE if ours is None else f"{rates[ours]:.3g} ({ours.partition(', ')[2]})",
        NONE if peer is None else f"{rates[peer]:.3g} ({peer})",
        NONE if ours is None or peer is None else f"{rates[ours] / rates[peer]:.2f}",
        ", ".join(memory),
    )


def _best(rates: Mapping[str, float]) -> str | None:
    return max(rates, key=rates.__getitem__) if rates else None


def _gigabytes(size: int | None) -> str:
    return NONE if size is None else f"{size / 1e9:.1f} GB"
