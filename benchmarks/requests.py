"""Images a second by how many images a request computes and how many requests run at a time, in one run.

    python -m benchmarks.requests [--seconds 30] [--out docs/results/requests.json]

Shapes take turns, call by call, each with sixteen photographs a call; models have random weights. What
`pe models compiled --measure` chooses on this machine is one of them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.encode.case import photographs
from benchmarks.encode.rounds import as_text, check_drift, summarise, time_rounds
from benchmarks.results import machine, report
from perception_encoder.models.checkpoints.weights import create_model, weight_hash
from perception_encoder.runtime.machine import core_count
from perception_encoder.runtime.openvino_towers import OpenVinoTowers
from perception_encoder.runtime.requests import VARIABLE, RequestShape
from perception_encoder.runtime.runtime import Precision
from perception_encoder.runtime.torch_towers import describe

MODELS = ("PE-Core-B16-224", "PE-Core-T16-384")
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "int8")
IMAGES = 16


def measure(name: str, precision: Precision, seconds: float) -> dict[str, list[float]]:
    """Return the images a second of a model by the shape of its requests, a value a round; DriftError if they drift."""
    model = create_model(name).eval()
    towers = OpenVinoTowers(describe(model, weight_hash(model)), precision, lambda: model)
    tower, cores = towers.runtime._open("image", None), core_count()
    shapes = [RequestShape(images, cores) for images in (1, 2, 4, 8)] + [RequestShape(8, 1), RequestShape(1, 1)]
    pixels = photographs(IMAGES, model.visual.config.image_size)
    runs = {str(shape): partial(tower._compile(shape), pixels) for shape in shapes}
    speeds = time_rounds(runs, IMAGES, seconds)
    print(f"{name}, {precision}", as_text(summary := summarise(speeds)), sep="\n", flush=True)
    check_drift(summary)
    return speeds


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="time for the rounds of a row, ten at least")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ[VARIABLE] = "0"  # int8 is timed even where it is slower
    speeds: dict[str, Any] = {}
    for name in MODELS:
        for precision in PRECISIONS:
            with tempfile.TemporaryDirectory() as cache:
                os.environ["XDG_CACHE_HOME"] = cache
                speeds[f"{name}, {precision}"] = measure(name, precision, arguments.seconds)
    report({"command": "python -m benchmarks.requests", "machine": machine(), "speeds": speeds}, arguments.out)


if __name__ == "__main__":
    main()
