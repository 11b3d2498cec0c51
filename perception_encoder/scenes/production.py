"""Make a set of scenes in several processes: WebDataset tars, and one JSON for all of a split.

    OUT/SPLIT/00000.tar, …   KEY.jpg  KEY.depth.png  KEY.mask.png  KEY.json    pictures
                             KEY.mp4  KEY.depth.png  KEY.mask.png  KEY.json    videos: frames of PNGs below each other
    OUT/SPLIT/instances.json COCO: boxes and masks of the pictures' things, by what they are counted as, and captions
    OUT/SPLIT/videos.json    the videos' fields as the PE Video Dataset has them, with events and tracks
    OUT/SPLIT/ATTRIBUTION.txt  whose models are shown, and under which licences

The bytes are the same whatever the number of processes: a sample depends on the seed, its split and its number alone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from perception_encoder.errors import ConfigError, OutputError
from perception_encoder.files import replacing, writing
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.progress import Track, untracked
from perception_encoder.scenes.bundled import bundled_models
from perception_encoder.scenes.models import SPLITS, Library
from perception_encoder.scenes.renderer import SIDES
from perception_encoder.scenes.samples import Maker, Pictures, Sample
from perception_encoder.scenes.videos import Videos

logger = logging.getLogger(__name__)

ATTRIBUTION = "ATTRIBUTION.txt"
AT_ONCE = 8  # pictures that a process is given at a time
NOT_IN_PVD = ("source", "label", "caption", "cameras", "attribution", "relations")


@dataclass(frozen=True, kw_only=True)
class ScenesConfig:
    """A set of scenes."""

    count: int = 1000
    """Pictures or videos."""
    split: str = "train"
    """Whose models are shown."""
    side: int = 128
    """Side of the pictures, in pixels; even."""
    seed: int = 0
    videos: bool = False
    """Videos in place of pictures."""
    frames: int = 24
    """Frames of a video."""
    rate: int = 8
    """Frames a second."""
    shard: int = 1000
    """Samples of a tar."""

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ConfigError(f"split is {self.split!r}; it must be one of {', '.join(SPLITS)}")
        if not SIDES[0] <= self.side <= SIDES[1] or self.side % 2:
            raise ConfigError(f"side is {self.side}; it must be even and from {SIDES[0]} to {SIDES[1]} px")
        if min(self.count, self.shard) < 1 or self.seed < 0:
            raise ConfigError("count and shard must be at least 1, and seed at least 0")
        if self.frames < 8 or self.rate < 1 or self.frames / self.rate < 2:
            raise ConfigError(f"{self.frames} frames at {self.rate} a second; a video needs 8 frames and two seconds")


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of a set."""

    folder: Path
    samples: int
    tars: int
    things: int
    models: int
    """How many different ones are shown."""


def load_models(furniture: Path | None) -> Library:
    """pybullet's own objects, and those of a library that `pe data prepare scenes` made."""
    library = Library(bundled_models())
    if furniture is not None:
        library.add(furniture)
    return library


def make_scenes(
    library: Library, out: Path, config: ScenesConfig, jobs: int | None = None, track: Track = untracked
) -> Made:
    """Make a set in `out/SPLIT`, which must be new or empty; `jobs`: processes, by default the CPU's cores.

    Raises DataError where the models leave no scene to make, OutputError where the set cannot be written.
    """
    folder = out / config.split
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder} is there and not empty; choose another place, or remove it")
    samples = iter(track(produce(library, config, jobs), "rendering", config.count))
    kept: list[Sample] = []
    tars = -(-config.count // config.shard)
    for number in range(tars):
        write_members(folder / f"{number:05}.tar", _members(islice(samples, config.shard), kept))
    if config.videos:
        entries = [{key: each for key, each in sample.metadata.items() if key not in NOT_IN_PVD} for sample in kept]
        path, content = folder / "videos.json", b"[\n" + b",\n".join(map(json_bytes, entries)) + b"\n]\n"
    else:
        path, kinds = folder / "instances.json", sorted({about.kind for about in library.about.values()})
        content = json_bytes(coco(kept, kinds))
    with writing(path), replacing(path) as temporary:
        temporary.write_bytes(content)
    credited = sorted({line for sample in kept for line in sample.metadata["attribution"]})
    with writing(folder / ATTRIBUTION), replacing(folder / ATTRIBUTION) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in credited), encoding="utf-8")
    shown = [thing["model"] for sample in kept for thing in sample.metadata["objects"]]
    return Made(folder=folder, samples=len(kept), tars=tars, things=len(shown), models=len(set(shown)))


def produce(library: Library, config: ScenesConfig, jobs: int | None = None) -> Iterator[Sample]:
    """Make a set's samples, in order; with one job in this process."""
    at_once = 1 if config.videos else AT_ONCE
    jobs = min(jobs or os.cpu_count() or 1, -(-config.count // at_once))
    if jobs == 1:
        with _maker(library, config) as maker:
            yield from map(maker.sample, range(config.count))
        return
    _maker(library, config).__exit__()  # what is wrong with the models is said here
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (library, config)) as pool:
        yield from pool.map(_sample, range(config.count), chunksize=at_once)


def _maker(library: Library, config: ScenesConfig) -> Maker:
    if config.videos:
        return Videos(library, config.split, config.side, config.seed, config.frames, config.rate)
    return Pictures(library, config.split, config.side, config.seed)


_makers: list[Maker] = []  # one, in each process


def _begin(library: Library, config: ScenesConfig) -> None:
    _makers.append(_maker(library, config))


def _sample(number: int) -> Sample:
    return _makers[0].sample(number)


def _members(samples: Iterable[Sample], kept: list[Sample]) -> Iterator[tuple[str, bytes]]:
    """A tar's members; keeps what the common files need of the samples."""
    for sample in samples:
        for extension, content in sample.files:
            yield f"{sample.key}.{extension}", content
        kept.append(Sample(sample.key, (), sample.metadata, sample.annotations))


def coco(samples: Sequence[Sample], kinds: Sequence[str]) -> dict[str, Any]:
    """COCO's instances: categories are all kinds of the library in alphabetical order, in every split the same."""
    numbers = {kind: number for number, kind in enumerate(kinds, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, sample in enumerate(samples, start=1):
        about = sample.metadata
        name = f"{sample.key}.jpg"
        images.append({"id": image, "file_name": name, "width": about["width"], "height": about["height"]})
        for annotation in sample.annotations:
            rest = {key: value for key, value in annotation.items() if key != "category"}
            number = numbers[annotation["category"]]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": number, **rest})
    return {
        "info": {"description": "rendered scenes with exact masks", "source": "perception-encoder"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": kind} for kind, number in numbers.items()],
        "captions": {str(image): sample.metadata["caption"] for image, sample in enumerate(samples, start=1)},
        "licenses": [],
    }
