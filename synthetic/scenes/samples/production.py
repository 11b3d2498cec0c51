"""Make a dataset of scenes in several processes: WebDataset tars, and files that describe the whole split.

    OUT/SPLIT/00000.tar, …   KEY.jpg  KEY.depth.png  KEY.mask.png  KEY.json    images
                             KEY.mp4  KEY.depth.png  KEY.mask.png  KEY.json    videos: frames of PNGs below each other
    OUT/SPLIT/instances.json COCO: boxes and masks of the images' objects, by class, and captions
    OUT/SPLIT/videos.json    the videos' fields as the PE Video Dataset has them, with events and tracks
    OUT/SPLIT/ATTRIBUTION.txt  authors and licences of the models

The bytes do not depend on the number of processes: a sample depends on the seed, its split and its number alone.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from perception_encoder.files import replacing_new, write_text
from perception_encoder.formats.shards import json_bytes, write_members
from perception_encoder.progress import Track, untracked
from synthetic.scenes.objects.bundled import bundled_models
from synthetic.scenes.objects.models import ObjectLibrary
from synthetic.scenes.samples.images import ImageMaker
from synthetic.scenes.samples.sample import SampleMaker, SceneSample, ScenesConfig
from synthetic.scenes.samples.videos import VideoMaker

AT_ONCE = 8  # images that a process makes at a time
NOT_IN_PVD = ("source", "label", "caption", "cameras", "attribution", "relations")


@dataclass(frozen=True, kw_only=True)
class WrittenScenes:
    """A dataset of scenes on disk."""

    directory: Path
    samples: int
    tars: int
    objects: int
    models: int
    """Number of different models."""


def load_object_library(furniture: Path | None) -> ObjectLibrary:
    """Return pybullet's own objects, and those of a library that `python -m synthetic.furniture` made."""
    library = ObjectLibrary(bundled_models())
    if furniture is not None:
        library.add(furniture)
    return library


def make_scenes(
    library: ObjectLibrary, out: Path, config: ScenesConfig, jobs: int | None = None, track: Track = untracked
) -> WrittenScenes:
    """Make a dataset in `out/SPLIT`, which must be new or empty; `jobs`: processes, by default the CPU's cores.

    Raises DataError if the models do not allow a scene, OutputError if the dataset cannot be written.
    """
    directory = out / config.split
    with replacing_new(directory) as unfinished:
        written = _write_scenes(library, unfinished, config, jobs, track)
    return replace(written, directory=directory)


def _write_scenes(
    library: ObjectLibrary, directory: Path, config: ScenesConfig, jobs: int | None, track: Track
) -> WrittenScenes:
    samples = iter(track(make_samples(library, config, jobs), "rendering", config.count))
    summaries: list[SceneSample] = []
    tars = -(-config.count // config.shard)
    for number in range(tars):
        write_members(directory / f"{number:05}.tar", _members(islice(samples, config.shard), summaries))
    if config.videos:
        entries = [
            {key: value for key, value in sample.metadata.items() if key not in NOT_IN_PVD} for sample in summaries
        ]
        lines = ",\n".join(json_bytes(entry).decode() for entry in entries)
        write_text(directory / "videos.json", f"[\n{lines}\n]\n")
    else:
        classes = sorted({info.class_name for info in library.info.values()})
        write_text(directory / "instances.json", json_bytes(_coco_instances(summaries, classes)).decode())
    authors = sorted({line for sample in summaries for line in sample.metadata["attribution"]})
    write_text(directory / "ATTRIBUTION.txt", "".join(f"{line}\n" for line in authors))
    models = [item["model"] for sample in summaries for item in sample.metadata["objects"]]
    return WrittenScenes(
        directory=directory, samples=len(summaries), tars=tars, objects=len(models), models=len(set(models))
    )


def make_samples(library: ObjectLibrary, config: ScenesConfig, jobs: int | None = None) -> Iterator[SceneSample]:
    """Make a dataset's samples, in order; with one job in this process."""
    at_once = 1 if config.videos else AT_ONCE
    jobs = min(jobs or os.cpu_count() or 1, -(-config.count // at_once))
    if jobs == 1:
        with _open_maker(library, config) as maker:
            yield from map(maker.sample, range(config.count))
        return
    _open_maker(library, config).__exit__()  # raises the errors of the library in this process
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _begin, (library, config)) as pool:
        yield from pool.map(_sample, range(config.count), chunksize=at_once)


_makers: list[SampleMaker] = []  # one, in each process


def _begin(library: ObjectLibrary, config: ScenesConfig) -> None:
    _makers.append(_open_maker(library, config))


def _sample(number: int) -> SceneSample:
    return _makers[0].sample(number)


def _open_maker(library: ObjectLibrary, config: ScenesConfig) -> SampleMaker:
    return VideoMaker(library, config) if config.videos else ImageMaker(library, config)


def _members(samples: Iterable[SceneSample], summaries: list[SceneSample]) -> Iterator[tuple[str, bytes]]:
    """A tar's members; appends the samples without their files to `summaries`."""
    for sample in samples:
        for extension, content in sample.files:
            yield f"{sample.key}.{extension}", content
        summaries.append(SceneSample(sample.key, (), sample.metadata, sample.annotations))


def _coco_instances(samples: Sequence[SceneSample], classes: Sequence[str]) -> dict[str, Any]:
    """COCO's instances: categories are all classes of the library in alphabetical order, in every split the same."""
    numbers = {name: number for number, name in enumerate(classes, start=1)}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, sample in enumerate(samples, start=1):
        side = {key: sample.metadata[key] for key in ("width", "height")}
        images.append({"id": image, "file_name": f"{sample.key}.jpg", **side})
        for annotation in sample.annotations:
            rest = {key: value for key, value in annotation.items() if key != "category"}
            number = numbers[annotation["category"]]
            annotations.append({"id": len(annotations) + 1, "image_id": image, "category_id": number, **rest})
    return {
        "info": {"description": "rendered scenes with exact masks", "source": "perception-encoder"},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
        "captions": {str(image): sample.metadata["caption"] for image, sample in enumerate(samples, start=1)},
        "licenses": [],
    }
