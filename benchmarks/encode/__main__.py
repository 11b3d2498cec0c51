"""Images and texts a second of this package beside other libraries and what bare matrix products allow, in one run.

    python -m benchmarks.encode [TOWER ...] [--seconds 60] [--missing] [--out docs/results/encode.json]

Towers: "PE-Core-T16-384:image" and so on, all twelve by default (a process each, about 40 minutes on two cores; L14
needs 12 GB). Weights are random. Images are photographs; "single" is one photograph a call, like a query. Texts have
all the tokens that a model reads; captions have usual lengths. Contenders take turns, call by call, in ten rounds or
more, so that the machine's noise falls on all alike; each has its minimum cosine similarity to its own weights in
float32. A tower whose first and last rounds differ is refused: see `benchmarks.encode.rounds`. One that is measured
replaces its own results only; --missing runs those that the file lacks.

Peers, in torch's fastest type: timm (its vision towers are open_clip's) and open_clip; onnxruntime on this package's
export, in float32 and int8; transformers' CLIP of the same sizes with OpenVINO, as optimum-intel converts it.

ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2 make torch and OpenVINO compute as on an older CPU; the results
name them. onnxruntime ignores both. With AVX512_CORE, OpenVINO computes bfloat16 in a reference kernel.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.encode import limits, ours, peers
from benchmarks.encode.case import Case, Contender, Kind, case_of, minimum_cosine
from benchmarks.encode.rounds import DriftError, as_text, check_drift, summarise, time_rounds
from benchmarks.results import cpu_features, cpu_name
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.memory import trim_memory
from perception_encoder.runtime.machine import core_count

TOWERS = {
    "PE-Core-T16-384:image": 8,
    "PE-Core-S16-384:image": 8,
    "PE-Core-B16-224:image": 8,
    "PE-Core-L14-336:image": 2,
    **{f"PE-Core-{size}:single": 1 for size in ("T16-384", "S16-384", "B16-224", "L14-336")},
    "PE-Core-S16-384:text": 16,
    "PE-Core-B16-224:text": 16,
    "PE-Core-S16-384:caption": 16,
    "PE-Core-B16-224:caption": 16,
}
"""Each with its number of inputs a call. T16 and S16 have text towers of one size, and so have B16 and L14."""
LIMITED = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")
"""Environment variables that hide features of the CPU from torch."""
LIBRARIES = ("torch", "openvino", "nncf", "timm", "open_clip_torch", "onnxruntime", "transformers")


def contenders(case: Case) -> Iterator[Contender]:
    """Yield all contenders, each after its first call, which sets it up."""
    factories: Sequence[tuple[str, Any]] = (
        ("perception-encoder", lambda path: ours.contenders(case, path)),
        ("limits", lambda path: limits.contenders(case)),
        ("timm or open_clip", lambda path: peers.torch_contenders(case)),
        ("onnxruntime", lambda path: peers.onnx_contenders(case, path)),
        (peers.SAME_SIZE, lambda path: peers.clip_contenders(case, path)),
    )
    for name, factory in factories:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as directory:
            found = factory(Path(directory))
            for contender in found:
                contender.run()
            yield from found
        gc.collect()
        trim_memory()  # of conversions: with all contenders, L14 would not fit
        print(f"{case.name}: {name} is ready after {time.perf_counter() - start:.0f} s", flush=True)


def measure(case: Case, found: Sequence[Contender], seconds: float) -> dict[str, Any]:
    """Return rates by label, a value a round, their summary and minimum cosines to float32; DriftError if it drifts."""
    cosines = {one.label: minimum_cosine(one.run(), one.expected) for one in found if one.expected is not None}
    begin, others = time.perf_counter(), seconds_of_others()
    speeds = time_rounds({one.label: one.run for one in found}, len(case.inputs), seconds)
    taken = time.perf_counter() - begin
    summary = summarise(speeds)
    print(f"{case.name}: {len(speeds[found[0].label])} rounds in {taken:.0f} s", as_text(summary), sep="\n", flush=True)
    check_drift(summary)
    return {
        "machine": machine(),
        "others": round((seconds_of_others() - others) / taken, 2),
        "inputs": len(case.inputs),
        "summary": summary,
        "speeds": speeds,
        "cosines": cosines,
    }


def seconds_of_others() -> float:
    """Return the CPU seconds that all other processes have used since the machine started; 0 where Linux isn't."""
    try:
        fields = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _, _, interrupts, soft, steal = map(int, fields[:8])
    ticks: int = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupts + soft + steal) / ticks - time.process_time()


def machine() -> dict[str, Any]:
    """Return the CPU, its number of cores that are used, the features that choose kernels, and the libraries."""
    return {
        "cpu": cpu_name(),
        "cores": core_count(),
        "features": cpu_features(),
        "limited": {name: os.environ[name] for name in LIMITED if name in os.environ},
        "libraries": {name: version(name) for name in LIBRARIES},
    }


def merge(out: Path | None, name: str, result: dict[str, Any]) -> None:
    """Put a tower's result into the file, or print it."""
    whole = _read(out)
    whole["towers"][name] = result
    text = json.dumps(whole, indent=1)
    if out is None:
        print(text)
    else:
        out.write_text(text + "\n", encoding="utf-8")


def _read(out: Path | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"command": "python -m benchmarks.encode", "towers": {}}
    if out is None or not out.exists():
        return empty
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found if "towers" in found else empty


def run_tower(name: str, seconds: float, out: Path | None) -> None:
    """Set up and measure one tower in this process, with an empty cache of compiled models."""
    model, _, kind = name.partition(":")
    with tempfile.TemporaryDirectory() as cache, torch.inference_mode():
        os.environ["XDG_CACHE_HOME"] = cache
        warnings.simplefilter("ignore")
        case = case_of(create_model(model).eval(), cast(Kind, kind), TOWERS[name])
        merge(out, name, measure(case, list(contenders(case)), seconds))


def main() -> None:
    """Measure one tower here, or several in a process each; exit with status 1 if one was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "towers", nargs="*", metavar="TOWER", help="MODEL:image, :single, :text or :caption [default: all]"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="time for the rounds of a tower, ten at least")
    parser.add_argument("--missing", action="store_true", help="run only the towers that --out lacks")
    parser.add_argument("--out", type=Path, help="JSON to write into [default: print]")
    arguments = parser.parse_args()
    if unknown := set(arguments.towers) - set(TOWERS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(TOWERS)}")
    done = _read(arguments.out)["towers"] if arguments.missing else {}
    names = [name for name in arguments.towers or TOWERS if name not in done]
    if len(names) == 1:
        try:
            run_tower(names[0], arguments.seconds, arguments.out)
        except DriftError as error:
            parser.exit(1, f"{names[0]} is refused: {error}\n")
        return
    options = ["--seconds", str(arguments.seconds), *(["--out", str(arguments.out)] if arguments.out else [])]
    runs = {name: subprocess.run([sys.executable, "-m", "benchmarks.encode", name, *options]) for name in names}
    if failed := [name for name, run in runs.items() if run.returncode]:
        parser.exit(1, f"not measured, so run them again: {' '.join(failed)}\n")


if __name__ == "__main__":
    main()
