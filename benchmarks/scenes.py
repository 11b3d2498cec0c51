"""How fast scenes are rendered: images and videos a second, and the time of each part of an image.

    python -m benchmarks.scenes [--models datasets/scenes/furniture.tar] [--count 600] [--out docs/results/scenes.json]

Images a second are those of `python -m synthetic.scenes`, written to a temporary directory, on all cores but without
the start of the processes: the time from the 20th of `count` samples to the last. The parts are CPU time in one
process, after the models are loaded.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import report
from synthetic.scenes.language.graph import build_graph
from synthetic.scenes.objects.models import SPLITS, ObjectLibrary
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.production import load_object_library, make_scenes
from synthetic.scenes.samples.sample import ScenesConfig

FIRST = 20  # samples that are made while processes start
PARTS = ("sampling the scene", "drawing objects", "scene graph", "shadows and room", "captions and files")


class Clock:
    """A `Track` that notes the time of each sample."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, items: Iterable[Any], description: str, total: int) -> Iterator[Any]:
        """Yield `items`, noting the time of each."""
        for item in items:
            self.times.append(time.perf_counter())
            yield item

    @property
    def rate(self) -> float:
        """Samples a second after the first."""
        first = min(FIRST, len(self.times) // 4)
        return (len(self.times) - 1 - first) / (self.times[-1] - self.times[first])


def measure_rate(library: ObjectLibrary, config: ScenesConfig, jobs: int) -> float:
    """Return the samples that are written a second."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="pe-bench-") as directory:
        make_scenes(library, Path(directory), config, jobs, clock)
    return clock.rate


def measure_parts(library: ObjectLibrary, side: int, count: int) -> dict[str, float]:
    """Return the CPU milliseconds an image of each part, in the order of PARTS."""
    with ImageMaker(library, ScenesConfig(side=side, seed=1)) as maker:
        for number in range(count):
            maker.sample(number)  # loads the models
        whole = -time.process_time()
        for number in range(count):
            maker.sample(number)
        whole += time.process_time()
        parts, tries = np.zeros(4), 0
        for number in range(count):
            generator = np.random.default_rng([1, SPLITS.index("train"), number, False])
            graph = None
            while graph is None:
                marks = [time.process_time()]
                scene = maker.sampler.sample(generator)
                marks.append(time.process_time())
                with maker.renderer.stage(scene) as stage:
                    objects = stage.draw_objects(scene.camera, side)
                    marks.append(time.process_time())
                    graph = build_graph(scene, objects.mask, library)
                    marks.append(time.process_time())
                    if graph is not None:
                        stage.shade(objects)
                    marks.append(time.process_time())
                parts += np.diff(marks)
                tries += 1
    values = [*parts, max(whole - parts.sum(), 0)]
    milliseconds = {name: 1000 * float(value) / count for name, value in zip(PARTS, values, strict=True)}
    return {**milliseconds, "all": 1000 * whole / count, "attempts": tries / count}


def run(models: Path | None, count: int, jobs: int) -> dict[str, Any]:
    """Measure everything."""
    library = load_object_library(models)
    load = os.getloadavg()[0]
    rates = [
        {
            "what": "videos of 24 frames" if videos else "images",
            "side": side,
            "count": number,
            "rate": measure_rate(library, ScenesConfig(count=number, side=side, videos=videos), jobs),
        }
        for videos, side, number in ((False, 128, count), (False, 224, count // 2), (True, 128, max(count // 10, 8)))
    ]
    return {
        "machine": platform.machine(),
        "cores": jobs,
        "load": load,
        "models": len(library),
        "rates": rates,
        "parts": measure_parts(library, 128, max(count // 6, 4)),
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, help="library from `python -m synthetic.furniture`")
    parser.add_argument("--count", type=int, default=600, help="number of images")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    report(run(arguments.models, arguments.count, arguments.jobs), arguments.out)


if __name__ == "__main__":
    main()
