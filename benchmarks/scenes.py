"""How fast scenes are rendered: pictures and videos a second, and where a picture's time goes.

    python -m benchmarks.scenes [--models datasets/scenes/furniture.tar] [--count 600] [--out docs/results/scenes.json]

Pictures a second are those of `pe data scenes`, written to a temporary folder, on all cores but without the start of
the processes: the time from the 20th of `count` samples to the last. The parts are CPU time in one process, once the
models are loaded.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

import numpy as np

from benchmarks.results import report
from perception_encoder.scenes.language.graph import describe
from perception_encoder.scenes.objects.models import SPLITS, Library
from perception_encoder.scenes.samples.images import Pictures
from perception_encoder.scenes.samples.production import ScenesConfig, load_models, make_scenes

FIRST = 20  # samples that are made while processes start
AIM = 100  # pictures a second at 128 px, on two cores
PARTS = ("inventing", "drawing the things", "describing", "shadows and room", "the rest: words and files")


class Clock:
    """A `Track` that notes when the samples come."""

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


def measure_rate(library: Library, config: ScenesConfig, jobs: int) -> float:
    """Samples a second, written."""
    clock = Clock()
    with tempfile.TemporaryDirectory(prefix="pe-bench-") as folder:
        make_scenes(library, Path(folder), config, jobs, clock)
    return clock.rate


def measure_parts(library: Library, side: int, count: int) -> dict[str, float]:
    """CPU milliseconds a picture of each part, in the order of PARTS."""
    with Pictures(library, "train", side, seed=1) as pictures:
        for number in range(count):
            pictures.sample(number)  # loads the models
        whole = -time.process_time()
        for number in range(count):
            pictures.sample(number)
        whole += time.process_time()
        parts, tries = np.zeros(4), 0
        for number in range(count):
            generator = np.random.default_rng([1, SPLITS.index("train"), number, False])
            graph = None
            while graph is None:
                marks = [time.process_time()]
                scene = pictures.layouts.invent(generator)
                marks.append(time.process_time())
                with pictures.renderer.stage(scene) as stage:
                    view = stage.look(scene.camera, side)
                    marks.append(time.process_time())
                    graph = describe(scene, view.mask, library)
                    marks.append(time.process_time())
                    if graph is not None:
                        stage.light(view)
                    marks.append(time.process_time())
                parts += np.diff(marks)
                tries += 1
    values = [*parts, max(whole - parts.sum(), 0)]
    found = {name: 1000 * float(value) / count for name, value in zip(PARTS, values, strict=True)}
    return {**found, "all": 1000 * whole / count, "drawn for each that is kept": tries / count}


def run(models: Path | None, count: int, jobs: int) -> dict[str, Any]:
    """Measure everything."""
    library = load_models(models)
    load = os.getloadavg()[0]
    rates = [
        {
            "what": "videos of 24 frames" if videos else "pictures",
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


def page(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    parts, rate = result["parts"], result["rates"][0]["rate"]
    tries = parts["drawn for each that is kept"]
    spent = ", ".join(f"{name} {parts[name]:.1f}" for name in PARTS)
    busy = f" The machine was at other work as well (load {result['load']:.1f} before it began)."
    text = (
        "Made by `python -m benchmarks.scenes --models datasets/scenes/furniture.tar --out docs/results/scenes.json`: "
        "samples a second as `pe data scenes` writes them (JPEG, depth, mask, graph, captions, questions), without the "
        f"start of the processes. {result['models']} models, {result['cores']} processes."
        f"{busy if result['load'] > 0.5 else ''} An image of 128 px takes {parts['all']:.1f} ms of CPU time in one "
        f"process, its models loaded ({spent}); {tries:.2f} scenes are drawn for each that is kept. The aim, {AIM} "
        f"images a second at 128 px on two cores, is {'reached' if rate >= AIM else 'missed here'}."
    )
    rates = (f"| {r['what']} | {r['side']} | {r['count']} | {r['rate']:.1f} |" for r in result["rates"])
    lines = ["# Rendered scenes", "", *wrap(text, 118, break_on_hyphens=False), ""]
    return "\n".join([*lines, "| what | side, px | samples | a second |", "| --- | --- | --- | --- |", *rates]) + "\n"


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--models", type=Path, help="library that `pe data prepare scenes` made")
    parser.add_argument("--count", type=int, default=600, help="pictures")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="JSON file; a page is written beside it")
    arguments = parser.parse_args()
    report(run(arguments.models, arguments.count, arguments.jobs), page, arguments.out)


if __name__ == "__main__":
    main()
