"""Read the images of training data, undecoded, with their labels or captions: directories, tables and tars."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.classified import load_tasks
from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import MediaSource
from perception_encoder.formats.shards import find_shards, read_shard, shards_below, split_names
from perception_encoder.formats.tables import TEXT_COLUMNS, read_table
from perception_encoder.preprocess.source import TABLE_SUFFIXES, escape_name
from perception_encoder.preprocess.tokenizer import clean

LAYOUTS = (
    "--data takes a directory with a directory of images for each class (DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg), a "
    "table (.csv, .tsv, .jsonl, .parquet) with a column `path` and a column `label` or `caption`, or a directory with "
    "train.tar or train/*.tar; --shards takes tars of KEY.jpg and KEY.txt"
)


@dataclass(frozen=True)
class FileSample:
    """An undecoded image, as a file or its content in a shard, and what is known about it."""

    key: str
    image: MediaSource
    metadata: Mapping[str, Any]
    """The `source`, by default the name of the directory or table, and the `label`, empty if there are captions."""
    texts: tuple[str, ...] = ()  # cleaned captions; if empty, captions are made from the label


def read_split(path: Path, split: str) -> list[FileSample]:
    """Read a split of a directory, table or tars, undecoded and in order; DataError lists the layouts if there is none.

    A directory without splits, or a table without a column `split`, is read whole.
    """
    if path.suffix == ".tar" or shards_below(path, split):
        samples = (sample for shard in find_shards(path, split) for sample in read_shard(shard))
        return [FileSample(sample.key, sample.image, sample.metadata) for sample in samples]
    if path.suffix.lower() in TABLE_SUFFIXES and set(TEXT_COLUMNS) & read_table(path)[0].keys():
        return _read_captioned(path, split)
    try:
        (task,) = load_tasks(path, split).values()
    except DataError as error:
        if path.suffix.lower() in TABLE_SUFFIXES:
            raise
        raise DataError(f"{path} has no training data; {LAYOUTS}") from error
    source = escape_name(path.resolve().stem if path.is_file() else path.resolve().name)
    return [
        FileSample(key, image, {"source": source, "label": task.names.get(label, label)})
        for key, image, label in zip(task.keys, task.images, task.labels, strict=True)
    ]


def has_split(path: Path, split: str) -> bool:
    """Return whether a directory or table has this split."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        names = split_names(split)
        return any(str(row.get("split")) in names for row in read_table(path))
    return path.is_dir() and (bool(shards_below(path, split)) or any(map(Path.is_dir, path.glob(f"{split}/*"))))


def _read_captioned(path: Path, split: str) -> list[FileSample]:
    loaded = load_captions(path, split=split)
    metadata = {"source": escape_name(path.stem), "label": ""}
    return [
        FileSample(key, image, metadata, tuple(dict.fromkeys(map(clean, texts))))
        for key, image, texts in zip(loaded.keys, loaded.media, loaded.captions, strict=True)
    ]
