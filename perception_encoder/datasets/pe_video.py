"""The PE Video Dataset in its published layout: `SPLIT/*.tar` of KEY.mp4 and KEY.json (section 2.3).

The fields are read leniently. `category` may be a code beside `category_name`, and rendered scenes give `duration`
and `rate` for `video_duration_in_s` and `fps`. Other members of a tar are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from perception_encoder.errors import DataError
from perception_encoder.formats.shards import json_object, read_samples, shards_below
from perception_encoder.formats.tars import TarMember
from perception_encoder.preprocess.source import SHARD_VIDEOS

PE_VIDEO_SPLITS = ("train", "val", "test", "extended")
"""Directories of tars; only rendered scenes have `val`."""


@dataclass(frozen=True)
class VideoRecord:
    """A video and its metadata."""

    key: str
    split: str
    extension: str
    video: TarMember
    metadata: dict[str, Any]

    @property
    def where(self) -> str:
        return f"{self.video.tar}: {self.key}"

    @property
    def model_caption(self) -> str:
        """The model's caption, or empty."""
        return self._text("model_caption")

    @cached_property
    def refined_caption(self) -> str:
        """The caption refined by a person or a simulated annotator, or empty."""
        return self._text("human_caption") or self._text("refined_caption")

    @property
    def refined_by(self) -> str:
        """Who refined it: human or simulated; empty without a refined caption."""
        if not self.refined_caption:
            return ""
        return "human" if self._text("human_caption") else self._text("refined_by")

    @property
    def category(self) -> str:
        """The category's name, such as "Water Scenes", or empty."""
        return self._text("category_name") or self._text("category")

    @property
    def duration(self) -> float | None:  # seconds
        return self._number("video_duration_in_s", "duration")

    @property
    def frame_rate(self) -> float | None:  # frames per second
        return self._number("fps", "rate")

    def _text(self, name: str) -> str:
        value = self.metadata.get(name)
        return value.strip() if isinstance(value, str) else ""

    def _number(self, *names: str) -> float | None:
        values = (self.metadata.get(name) for name in names)
        numbers = (float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool))
        return next((number for number in numbers if 0 < number < 1e9), None)


def list_video_tars(path: Path) -> list[Path]:
    """Return the tars of a dataset: those of its split directories, else of the directory itself; or a single tar.

    An output of `pe engine run` has its clips in `shards/*.tar`. Raises DataError if there are none.
    """
    if path.is_file():
        return [path]
    tars = [tar for split in PE_VIDEO_SPLITS for tar in shards_below(path, split)]
    tars = tars or sorted(path.glob("*.tar")) or sorted(path.glob("shards/*.tar"))
    if not tars:
        layout = ", ".join(f"{split}/*.tar" for split in PE_VIDEO_SPLITS)
        raise DataError(f"{path} holds no videos; give a tar, or a directory of {layout}, *.tar or shards/*.tar")
    return tars


def split_of(tar: Path) -> str:
    """Return the split of a tar by its name or its directory's, or an empty string."""
    return next((name for name in (tar.stem, tar.parent.name) if name in PE_VIDEO_SPLITS), "")


def read_videos_of(path: Path, split: str | None = None) -> Iterator[VideoRecord]:
    """Yield the videos of one split or of all, in order, without reading their bytes.

    Raises DataError if a tar or a JSON is damaged, if a video lacks its JSON or a JSON its video, and if the split does
    not exist.
    """
    tars = list_video_tars(path)
    present = sorted({split_of(tar) for tar in tars})
    if split is not None and split not in present:
        raise DataError(f"{path} has no split {split!r}; it has {', '.join(map(repr, present))}")
    for tar in tars:
        if split in (None, split_of(tar)):
            yield from read_video_tar(tar)


def read_video_tar(tar: Path) -> Iterator[VideoRecord]:
    """Yield the videos of one tar in order: see `read_videos_of`."""
    for key, extension, parts in read_samples(tar, SHARD_VIDEOS, load=False):
        metadata = json_object(f"{tar}: {key}", parts["json"])
        yield VideoRecord(key, split_of(tar), extension, parts[extension], metadata)
