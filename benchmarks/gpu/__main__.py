"""Speed and memory on one card, beside timm, open_clip and transformers: about 15 minutes.

    python -m benchmarks.gpu [JOB ...] [--out docs/results/gpu.json]

Jobs: MODEL:image and MODEL:text for the five Core models, MODEL:train for B16 and L14, and generation by a Llama of the
shape of Llama-3.2-1B. Weights are random, in bfloat16; training computes in bfloat16 from float32 weights. Contenders
take turns in ten rounds, timed by CUDA events. Compiled ones are compiled by torch.compile; image towers take the
faster of contiguous and channels-last memory. A contender's memory is that of its tensors at their peak.

A contender that fails, needs more memory than the card has, or takes longer than --limit to be set up, is skipped, and
so are all jobs that --minutes leaves no time for; the result says why. A job that is measured replaces its own result
only. Without a card, this prints what it would do. --device cpu --quick tries everything in a minute or two: one round,
the smallest model, programs traced but not compiled, memory not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.encode.case import minimum_cosine
from benchmarks.encode.rounds import MIN_ROUNDS, DriftError, as_text, check_drift, summarise, time_rounds
from benchmarks.gpu.device import Device, TimeLimit, time_limit
from benchmarks.gpu.jobs import JOBS, QUICK, SETTINGS, Job, Run
from benchmarks.results import report

TURN = 0.05
"""Seconds of a contender's turn, at least: short calls are repeated."""


def plan(jobs: Sequence[Job]) -> str:
    """Return what would be done, a line for each job."""
    lines = []
    for job in jobs:
        who = "; ".join(f"{library} ({', '.join(settings)})" for library, settings in SETTINGS[job.kind].items())
        lines.append(f"{job.name}, {job.count} a call: {who}")
    return "\n".join(lines)


def set_up(job: Job, device: Device, limit: float) -> tuple[dict[str, Run], dict[str, Any]]:
    """Return the contenders that work, after their first call, and what is known of all."""
    runs: dict[str, Run] = {}
    memory: dict[str, int | None] = {}
    cosines: dict[str, float] = {}
    skipped: dict[str, str] = {}
    for who in SETTINGS[job.kind]:
        before, expected = device.allocated(), None
        try:
            with time_limit(limit):
                found = job.build(who, device)
        except (Exception, TimeLimit) as error:
            skipped[who] = _reason(error)
            continue
        for setting, run in found.items():
            label = f"{who}, {setting}"
            try:
                with time_limit(limit):
                    output = _as_array(run())
                    held = device.allocated() - before
                    added = device.added(run)
            except (Exception, TimeLimit) as error:
                skipped[label] = _reason(error)
                continue
            runs[label], memory[label] = run, None if added is None else held + added
            expected = output if expected is None else expected
            if output is not None and output is not expected:
                cosines[label] = minimum_cosine(output, expected)
    return runs, {"memory": memory, "cosines": cosines, "skipped": skipped}


def _as_array(output: Any) -> Any:
    """Return embeddings as an array, None for what else a call returns."""
    if isinstance(output, torch.Tensor):
        return output.float().cpu().numpy()
    return None if output is None or isinstance(output, list) else output


def _reason(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError):
        return "the card's memory is too small"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def measure(job: Job, device: Device, limit: float, rounds: int) -> dict[str, Any]:
    """Return a job's rates by contender, a value a round, their memory, and what was skipped and why."""
    runs, known = set_up(job, device, limit)
    result: dict[str, Any] = {"machine": device.describe(), "count": job.count, "speeds": {}, **known}
    if not runs:
        return result
    calls = math.ceil(TURN / min(device.seconds(run) for run in runs.values())) if rounds > 1 else 1

    def repeated(run: Run) -> Run:
        return lambda: [run() for _ in range(calls)]

    turns = {label: repeated(run) for label, run in runs.items()}
    try:
        speeds = time_rounds(turns, job.count * calls, 0.0, rounds, device.seconds)
        if rounds >= MIN_ROUNDS:
            summary = summarise(speeds)
            print(as_text(summary), flush=True)
            check_drift(summary)
    except (DriftError, torch.OutOfMemoryError) as error:
        result["skipped"]["all"] = _reason(error)
        return result
    return result | {"speeds": speeds}


def run_jobs(jobs: Sequence[Job], device: Device, arguments: argparse.Namespace, out: Path | None) -> None:
    """Measure jobs until the time is over, and write the file after each."""
    begin, rounds = time.perf_counter(), 1 if arguments.quick else MIN_ROUNDS
    whole: dict[str, Any] = {"command": "python -m benchmarks.gpu", "jobs": {}, "skipped": {}}
    if out is not None and out.exists():
        whole = json.loads(out.read_text(encoding="utf-8"))
    for job in jobs:
        left = 60 * arguments.minutes - (time.perf_counter() - begin)
        if left > 0:
            print(f"{job.name}: after {time.perf_counter() - begin:.0f} s", flush=True)
            result = measure(job, device, min(arguments.limit, left), rounds)
            for label, why in result["skipped"].items():
                print(f"{job.name}: {label}: skipped: {why}", flush=True)
            whole["skipped"].pop(job.name, None)
            whole["jobs"][job.name] = result
            device.clear()
        else:
            whole["skipped"][job.name] = f"there was no time left of {arguments.minutes:g} minutes"
            print(f"{job.name}: skipped: {whole['skipped'][job.name]}", flush=True)
        if out is not None:
            report(whole, out)
    if out is None:
        report(whole, None)


def main(given: Sequence[str] | None = None) -> None:
    """Measure on a card; without one, print what would be done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("jobs", nargs="*", metavar="JOB", help="such as PE-Core-B16-224:image [default: all]")
    parser.add_argument("--device", help='such as "cuda:1" [default: "cuda" if there is a card]')
    parser.add_argument("--quick", action="store_true", help="try everything once on the smallest model")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds to set up a contender [default: 90]")
    parser.add_argument("--minutes", type=float, default=15.0, help="time in which jobs may begin [default: 15]")
    parser.add_argument("--out", type=Path, help="JSON to write into [default: print]")
    arguments = parser.parse_args(given)
    known: Mapping[str, Job] = {job.name: job for job in (QUICK if arguments.quick else JOBS)}
    if unknown := set(arguments.jobs) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(known)}")
    jobs = [known[name] for name in arguments.jobs or known]
    if arguments.device is None and not torch.cuda.is_available():
        print(f"There is no CUDA card here, so nothing is measured. On one, this would be timed:\n{plan(jobs)}")
        return
    run_jobs(jobs, Device(torch.device(arguments.device or "cuda")), arguments, arguments.out)


if __name__ == "__main__":
    main()
