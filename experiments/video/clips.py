"""The clips of the experiment: those of a built dataset, each with a simulated uploader's title and description."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.datasets.pe_video import VideoRecord, read_videos_of
from perception_encoder.files import replacing, writing
from perception_encoder.formats.shards import json_bytes
from synthetic.captions import with_article
from synthetic.video_dataset.truth import SceneTruth

OBJECT_IN_TITLE, OBJECTS_IN_DESCRIPTION, EVENT_IN_TITLE = 0.6, 0.5, 0.15
"""How often a title names an object, a description others; and how often such a title tells an event instead."""
TITLES = ("my {} on camera", "{} test", "new {}", "look at this {}", "{} for sale", "{} in the studio")
EMPTY_TITLES = ("untitled", "clip {}", "MOV_{:04}", "watch this", "part {}", "test {}")
DESCRIPTIONS = ("Filmed with {}.", "With {}, in case you wonder.", "You can see {} too.")
EMPTY_DESCRIPTIONS = ("Subscribe for more.", "Music: none.", "Uploaded from my phone.", "")


@dataclass(frozen=True)
class Clip:
    """A clip, and what is true of it."""

    key: str
    path: Path
    """Its MP4; the uploader's text is in the JSON file beside it."""
    truth: SceneTruth
    title: str
    description: str

    @property
    def metadata(self) -> str:
        """Title and description as one text."""
        return f"{self.title}. {self.description}".strip()


def write_clips(dataset: Path, split: str, out: Path, seed: int = 0) -> list[Clip]:
    """Write the clips of a split with the uploader's text beside them, those that are missing; return all.

    Raises DataError for a dataset that `python -m synthetic.video_dataset` did not make.
    """
    return [_write(record, out, seed) for record in read_videos_of(dataset, split)]


def _write(record: VideoRecord, out: Path, seed: int) -> Clip:
    truth = SceneTruth.of(record.metadata)
    title, description = upload_text(truth, np.random.default_rng([seed, *record.key.encode()]))
    clip = Clip(record.key, out / f"{record.key}.mp4", truth, title, description)
    if not clip.path.is_file():
        fields = {"title": clip.title, "description": clip.description}
        for path, content in _files(clip, fields, record):
            with writing(path), replacing(path) as temporary:
                temporary.write_bytes(content)
    return clip


def _files(clip: Clip, fields: dict[str, Any], record: VideoRecord) -> Iterator[tuple[Path, bytes]]:
    yield clip.path.with_suffix(".json"), json_bytes(fields)
    yield clip.path, record.video.read(record.where)


def upload_text(truth: SceneTruth, generator: np.random.Generator) -> tuple[str, str]:
    """Return a title and a description as people write them: often they say nothing of what is seen."""
    names = [str(name) for name in generator.permutation(sorted(truth.colours))]
    number = int(generator.integers(1, 1000))
    title = _draw(generator, EMPTY_TITLES).format(number)
    if generator.random() < OBJECT_IN_TITLE:
        title = _draw(generator, TITLES).format(names[0])
        if generator.random() < EVENT_IN_TITLE and truth.events:
            title = " ".join(truth.events[0])
    description = _draw(generator, EMPTY_DESCRIPTIONS)
    if generator.random() < OBJECTS_IN_DESCRIPTION:
        others = " and ".join(with_article(name) for name in names[1:3] or names)
        description = f"{_draw(generator, DESCRIPTIONS).format(others)} {description}".strip()
    return title, description


def _draw(generator: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(generator.integers(len(choices)))]
