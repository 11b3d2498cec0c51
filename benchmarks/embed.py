"""The share of the encoding speed that remains from a directory of JPEGs to a file of embeddings.

    python -m benchmarks.embed [--rounds 7] [--out docs/results/embed.json]

Three speeds a model (random weights), in turn, so that the machine's noise falls on all alike: encoding alone (images
decoded and resized beforehand, every core busy), decoding and resizing alone, and all of `pe embed`. If decoding
runs on the cores that encode, nothing can be faster than both one after the other: that limit is given too.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.results import machine, report
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.listing import list_items
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.pipeline import encode_items, map_in_order
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.preprocess.image import open_image

IMAGES = {"PE-Core-B16-224": 128, "PE-Core-N16-128": 768}
SIZE, QUALITY = (640, 480), 90
ENCODE, DECODE, EMBED = "encode only", "decode only", "directory to file"


def write_photographs(directory: Path, count: int) -> list[Path]:
    """Write JPEGs cut from scikit-image's photographs, each from another part."""
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    generator = np.random.default_rng(0)
    paths = [directory / f"{number:04d}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        photograph = photographs[number % len(photographs)]
        left, top = (int(generator.integers(0, side // 4)) for side in photograph.size)
        box = (left, top, left + photograph.width * 3 // 4, top + photograph.height * 3 // 4)
        photograph.resize(SIZE, Image.Resampling.BICUBIC, box).save(path, quality=QUALITY)
    return paths


def contenders(name: str, paths: Sequence[Path]) -> dict[str, Callable[[], object]]:
    """Calls to time, by label."""
    encoder = Encoder(create_model(name))
    feature, cores = encoder.feature(), torch.get_num_threads()
    transform, size = encoder.transform, encoder.batch_size
    groups = [paths[start : start + size] for start in range(0, len(paths), size)]

    def decode(group: Sequence[Path]) -> np.ndarray:
        return np.stack([transform.pixels(open_image(path)) for path in group])

    pixels = list(map(decode, groups))

    def embed() -> None:
        with (
            tempfile.TemporaryDirectory() as directory,
            EmbeddingWriter(Path(directory) / "out.parquet", encoder.describe(feature)) as writer,
        ):
            for batch in encode_items(encoder, writer.resume(list_items([paths[0].parent])), feature):
                writer.add(batch)
            writer.finish()

    return {
        ENCODE: lambda: list(
            map_in_order(lambda batch: encoder.embed_pixels(batch, feature), pixels, cores, encoder.runtime)
        ),
        DECODE: lambda: list(map_in_order(decode, groups, cores, encoder.runtime)),
        EMBED: embed,
    }


def measure(name: str, rounds: int) -> dict[str, list[float]]:
    """Images a second of each contender in each round."""
    with tempfile.TemporaryDirectory() as directory:
        paths = write_photographs(Path(directory), IMAGES[name])
        return take_turns(name, contenders(name, paths), len(paths), rounds)


def take_turns(name: str, runs: Mapping[str, Callable[[], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of each run, over `count` of them, in each round, after one that warms up."""
    speeds: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(rounds + 1):
        for label, run in runs.items():
            start = time.perf_counter()
            run()
            speed = count / (time.perf_counter() - start)
            if number:
                speeds[label].append(speed)
            print(f"{name} round {number}/{rounds}  {label}: {speed:.1f}/s", flush=True)
    return speeds


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    arguments = parser.parse_args()
    result = {
        "command": "python -m benchmarks.embed",
        "machine": machine(),
        "dtype": str(Encoder(create_model("PE-Core-N16-128")).dtype).removeprefix("torch."),
        "speeds": {name: measure(name, arguments.rounds) for name in IMAGES},
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
