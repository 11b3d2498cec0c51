"""The share of the encoding speed that remains from a directory of images or videos to a file of embeddings.

    python -m benchmarks.embed [--rounds 10] [--only WORDS] [--photographs DIR] [--out docs/results/embed.json]

Speeds of each model (random weights), in turn, so that the machine's noise falls on all alike: encoding alone (images
decoded and resized beforehand, every core busy), decoding and resizing alone, all of `pe embed` and, for JPEGs of
12 megapixels and videos (a frame a second), of `pe index` until rows are stored, with exact and with reduced decoding.
If decoding runs on the cores that encode, nothing can be faster than both one after the other: that limit is given too.
`--only`: measure the cases whose labels contain the words, and keep the others of OUT.

`reduced`: what reduced decoding changes in the embeddings of the JPEGs of at least `LARGE` pixels in `--photographs`.
Published are those of Debian's packages budgie-backgrounds, ukui-wallpapers, lomiri-wallpapers-16.04 and -20.04,
mate-backgrounds and plasma-workspace-wallpapers, with mosaics of their parts up to 48 megapixels.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.results import machine, report
from perception_encoder.formats.listing import list_items
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.inference.output import EmbeddingWriter
from perception_encoder.inference.pipeline import map_in_order
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.preprocess.image import count_pixels, open_image
from perception_encoder.preprocess.video_file import write_video
from perception_encoder.search.storage.reader import FileReader, find_changes
from perception_encoder.search.storage.reader import batches as batches_of_files

IMAGES = {"PE-Core-B16-224": 64, "PE-Core-N16-128": 512}
SIZE, QUALITY = (640, 480), 90
LARGE_SIZE, LARGE_COUNT, LARGE_PHOTOGRAPHS = (4032, 3024), 64, 8
LARGE = 7_500_000
REDUCED_MODELS = ("builtin", "PE-Core-T16-384", "PE-Core-B16-224", "PE-Core-L14-336")
VIDEO_SIZE, VIDEO_RATE, VIDEO_SECONDS, VIDEO_COUNT = (1920, 1080), 30, 10, 4
PRECISIONS = ("auto", "int8")
ENCODE, DECODE, EMBED = "encode only", "decode only", "directory to file"
DECODE_REDUCED = "decode only, reduced"
INDEX = {"exact": "directory to rows of an index, exact", "reduced": "directory to rows of an index"}


def cut_photographs(count: int, size: tuple[int, int]) -> list[Image.Image]:
    """Cut images from scikit-image's photographs, each from another part."""
    from skimage import data

    photographs = [Image.fromarray(getattr(data, name)()) for name in ("astronaut", "chelsea", "coffee", "rocket")]
    generator = np.random.default_rng(0)
    images = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        left, top = (int(generator.integers(0, side // 4)) for side in photograph.size)
        box = (left, top, left + photograph.width * 3 // 4, top + photograph.height * 3 // 4)
        images.append(photograph.resize(size, Image.Resampling.BICUBIC, box))
    return images


def write_photographs(directory: Path, count: int) -> list[Path]:
    """Write JPEGs of 640 × 480 pixels."""
    paths = [directory / f"{number:04d}.jpg" for number in range(count)]
    for path, image in zip(paths, cut_photographs(count, SIZE), strict=True):
        image.save(path, quality=QUALITY)
    return paths


def with_noise(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Add a sensor's noise, which takes most of a large JPEG's bytes."""
    noise = generator.normal(0, 4, (image.height, image.width, 1)).astype(np.float32)
    return Image.fromarray(np.clip(np.asarray(image) + noise + 0.5, 0, 255).astype(np.uint8))


def write_large_photographs(directory: Path) -> list[Path]:
    """Write JPEGs of 12 megapixels, 3 MB each: a few photographs, repeated, with other last bytes."""
    generator, contents = np.random.default_rng(0), []
    for image in cut_photographs(LARGE_PHOTOGRAPHS, LARGE_SIZE):
        with_noise(image, generator).save(buffer := io.BytesIO(), "JPEG", quality=QUALITY)
        contents.append(buffer.getvalue())
    paths = [directory / f"{number:04d}.jpg" for number in range(LARGE_COUNT)]
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % len(contents)] + b"%d" % number)
    return paths


def write_videos(directory: Path) -> list[Path]:
    """Write H.264 videos of 1080p: the view moves over a photograph, with noise."""
    (width, height), frames = VIDEO_SIZE, VIDEO_RATE * VIDEO_SECONDS
    generator = np.random.default_rng(0)
    paths = [directory / f"{number:04d}.mp4" for number in range(VIDEO_COUNT)]
    noisy = [with_noise(Image.new("L", VIDEO_SIZE, 128).convert("RGB"), generator) for _ in range(5)]
    noises = [np.asarray(image).astype(np.int16) - 128 for image in noisy]
    for path, image in zip(paths, cut_photographs(VIDEO_COUNT, (width * 5 // 4, height * 5 // 4)), strict=True):
        pixels = np.asarray(image)
        with write_video(path, VIDEO_SIZE, VIDEO_RATE) as add:
            for number in range(frames):
                left, top = (number * side // 4 // frames for side in VIDEO_SIZE)
                view = pixels[top : top + height, left : left + width] + noises[number % len(noises)]
                add(np.clip(view, 0, 255).astype(np.uint8))
    return paths


MEDIA: dict[str, Callable[[Path], list[Path]]] = {
    "12-megapixel JPEGs": write_large_photographs,
    "1080p videos": write_videos,
}


def contenders(encoder: Encoder, paths: Sequence[Path]) -> tuple[dict[str, Callable[[], object]], int]:
    """Calls to time, by label, and the number of images or frames that each encodes."""
    feature, workers, runtime = encoder.feature(), encoder.runtime.workers, encoder.runtime
    items = list(list_items([paths[0].parent]))

    def pixels_of(item: Any) -> tuple[np.ndarray, ...]:
        return encoder.decode(item.media(), feature).pixels

    frames = [frame for pixels in map_in_order(pixels_of, items, workers, runtime) for frame in pixels]
    size = encoder.batch_size
    batches = [np.stack(frames[start : start + size]) for start in range(0, len(frames), size)]

    def embed() -> None:
        with (
            tempfile.TemporaryDirectory() as directory,
            EmbeddingWriter(Path(directory) / "out.parquet", encoder.describe(feature)) as writer,
        ):
            for batch in encoder.stream_items(writer.resume(list_items([paths[0].parent])), feature):
                writer.add(batch)
            writer.finish()

    def index(decoding: str) -> int:
        reader = FileReader(encoder.decoding_as(decoding), 1.0, set())
        files = batches_of_files(find_changes(paths[0].parent, {}).candidates, size)
        assert all(result.rows for batch in map_in_order(reader.read, files, workers, runtime) for result in batch)
        return len(paths) * (VIDEO_SECONDS if videos else 1)

    videos = paths[0].suffix == ".mp4"
    runs: dict[str, Callable[[], object]] = {
        ENCODE: lambda: list(
            map_in_order(lambda batch: encoder.embed_pixels(batch, feature), batches, workers, runtime)
        ),
        DECODE: lambda: list(map_in_order(pixels_of, items, workers, runtime)),
        EMBED: embed,
    }
    if videos or len(frames) == len(paths) == LARGE_COUNT:
        runs |= {label: partial(index, decoding) for decoding, label in INDEX.items()}
        reduced = encoder.decoding_as("reduced")
        runs[DECODE_REDUCED] = lambda: list(
            map_in_order(lambda item: reduced.decode(item.media(), feature), items, workers, runtime)
        )
    return runs, len(frames)


def measure(label: str, encoder: Encoder, write: Callable[[Path], list[Path]], rounds: int) -> dict[str, list[float]]:
    """Images or frames a second of each contender in each round."""
    with tempfile.TemporaryDirectory() as directory:
        runs, count = contenders(encoder, write(Path(directory)))
        return take_turns(label, runs, count, rounds)


def embeddings(encoder: Encoder, paths: Sequence[Path], factor: int | None) -> np.ndarray:
    """Embed images, decoded whole or reduced to `factor` times the model's size: float32 (N, D)."""
    side = factor and factor * encoder.transform.size
    images = (open_image(path, reduce_to=side) for path in paths)
    return np.concatenate([encoder.embed_pixels([encoder.transform.pixels(i)], encoder.feature()) for i in images])


def reduced(photographs: Path) -> dict[str, Any]:
    """Differences of reduced from whole decoding, by model and factor of its size, in float32."""
    paths = [path for path in sorted(photographs.rglob("*.jpg")) if count_pixels(path) >= LARGE]
    others = np.where(np.eye(len(paths), dtype=bool), -2, 0)
    found: dict[str, Any] = {"photographs": len(paths)}
    with tempfile.TemporaryDirectory() as directory:
        for name in REDUCED_MODELS:
            source: Path | str = name
            if name != "builtin":
                write_checkpoint(create_model(name), source := Path(directory) / f"{name}.safetensors")
            encoder = load(source, precision="float32")
            whole = embeddings(encoder, paths, None)
            for factor in (2, 3, 4):
                rows = embeddings(encoder, paths, factor)
                cosines, similar = (rows * whole).sum(axis=1), rows @ whole.T
                nearest = [(scores + others).argmax(axis=1) for scores in (similar, whole @ whole.T)]
                found[f"{name}, factor {factor}"] = {
                    "minimum cosine": float(cosines.min()),
                    "median cosine": float(np.median(cosines)),
                    "equal nearest neighbours": int((nearest[0] == nearest[1]).sum()),
                    "most similar to themselves": int((similar.argmax(axis=1) == np.arange(len(rows))).sum()),
                }
    return found


def take_turns(name: str, runs: Mapping[str, Callable[[], object]], count: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of each run, over `count` of them, in each round, after one that warms up."""
    speeds: dict[str, list[float]] = {label: [] for label in runs}
    for number in range(rounds + 1):
        for label, run in runs.items():
            start = time.perf_counter()
            done = run()
            speed = (done if isinstance(done, int) else count) / (time.perf_counter() - start)
            if number:
                speeds[label].append(speed)
            print(f"{name} round {number}/{rounds}  {label}: {speed:.1f}/s", flush=True)
    return speeds


def main() -> None:
    """Measure, then print the JSON or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--only", default="", help="words that the labels of measured cases contain [default: all]")
    parser.add_argument("--out", type=Path, help="JSON to write [default: print it]")
    parser.add_argument(
        "--photographs", type=Path, help="directory of large JPEGs [default: keep what OUT has of them]"
    )
    arguments = parser.parse_args()
    kept = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out and arguments.out.exists() else {}
    speeds, media = (kept.get(name, {}) if arguments.only else {} for name in ("speeds", "media"))
    with tempfile.TemporaryDirectory() as directory:
        for name, count in IMAGES.items():
            write_checkpoint(create_model(name), path := Path(directory) / f"{name}.safetensors")
            for precision in PRECISIONS:
                cases = {f"{name}, {precision}, {kind}": write for kind, write in MEDIA.items()}
                cases[f"{name}, {precision}, photographs"] = lambda place, count=count: write_photographs(place, count)
                cases = {label: write for label, write in cases.items() if arguments.only in label}
                if not cases:
                    continue
                encoder = load(path, precision=precision)
                ran = f"{encoder.runtime.name} {encoder.runtime.precision}"
                for label, write in cases.items():
                    found = measure(label, encoder, write, arguments.rounds)
                    if label == f"{name}, auto, photographs":
                        speeds[name] = found
                    else:
                        media[label] = {"runtime": ran, "speeds": found}
    result = {
        "command": "python -m benchmarks.embed",
        "machine": machine(),
        "speeds": speeds,
        "media": media,
        "reduced": reduced(arguments.photographs) if arguments.photographs else kept.get("reduced"),
    }
    report(result, arguments.out)


if __name__ == "__main__":
    main()
