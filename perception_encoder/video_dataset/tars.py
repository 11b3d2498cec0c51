"""Write a dataset in the PE Video Dataset's layout: `SPLIT/000000.tar` and so on, with KEY.mp4 and KEY.json.

KEY.txt beside them has the caption that `pe train` reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from perception_encoder.datasets.pe_video import VideoRecord
from perception_encoder.files import new_directory
from perception_encoder.formats.shards import json_bytes, present_fields, write_members

TEXT_FIELDS = (
    *("human_caption", "refined_caption", "refined_by", "model_caption", "category", "category_name", "description"),
)
"""Text fields of every JSON; empty if a video lacks them."""
CAPTIONS = ("human_caption", "refined_caption", "summary", "model_caption")
"""Fields of captions, the best first; `summary` is that of `pe engine run`."""
PER_TAR = 500


@dataclass(frozen=True)
class OutputVideo:
    """A video to write."""

    key: str
    extension: str
    read: Callable[[], bytes]
    """Returns the video's bytes; called at the time of writing."""
    metadata: Mapping[str, Any]
    split: str

    @classmethod
    def of(cls, record: VideoRecord, metadata: Mapping[str, Any], split: str) -> OutputVideo:
        """Return a video of another dataset with new metadata."""
        return cls(record.key, record.extension, lambda: record.video.read(record.where), metadata, split)


def write_dataset(out: Path, videos: Iterable[OutputVideo], per_tar: int = PER_TAR) -> dict[str, int]:
    """Write a dataset with `write_tars` into a new or empty directory; OutputError for another one or one in use.

    The tars appear once all are complete.
    """
    with new_directory(out) as directory:
        return write_tars(directory, videos, per_tar)


def write_tars(out: Path, videos: Iterable[OutputVideo], per_tar: int = PER_TAR) -> dict[str, int]:
    """Write videos, which must be ordered by split; return the number of videos per split.

    The same videos make the same bytes.
    """
    counts: dict[str, int] = {}
    for split, group in groupby(videos, key=lambda video: video.split):
        rest, number = iter(group), 0
        while part := list(islice(rest, per_tar)):
            path = out / (split or "train") / f"{number:06}.tar"
            counts[split] = counts.get(split, 0) + write_members(path, _members(part)) // 3
            number += 1
    return counts


def _members(videos: Iterable[OutputVideo]) -> Iterator[tuple[str, bytes]]:
    for video in videos:
        yield f"{video.key}.{video.extension}", video.read()
        yield f"{video.key}.json", json_bytes(present_fields(video.metadata, TEXT_FIELDS))
        texts = (str(video.metadata.get(name) or "").strip() for name in CAPTIONS)
        yield f"{video.key}.txt", next(filter(None, texts), "").encode(errors="backslashreplace")
