"""Training samples as they lie on disk: a directory for each class, or a table of paths and labels or captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.datasets.captioned import TEXT_COLUMNS, load_captions
from perception_encoder.datasets.classified import load_tasks
from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import Source, list_media
from perception_encoder.formats.tables import TABLE_SUFFIXES, read_table
from perception_encoder.preprocess.tokenizer import clean

LAYOUTS = (
    "--data takes a directory with a directory of images for each class (DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg), a "
    "table (.csv, .tsv, .jsonl, .parquet) with a column `path` and a column `label` or `caption`, or a directory with "
    "train.tar or train/*.tar; --shards takes tars of KEY.jpg and KEY.txt"
)


@dataclass(frozen=True)
class FileSample:
    """An image's file and what is known about it."""

    key: str
    image: Source
    metadata: Mapping[str, Any]
    """Its `source`, the name of the directory or table, and its `label`, which is empty if it has captions."""
    texts: tuple[str, ...] = ()
    """Its captions, cleaned; if there are none they are made of the label."""


def read_files(path: Path) -> list[FileSample]:
    """The training samples of a directory or table, undecoded and in order; DataError names the layouts otherwise.

    Of a directory with splits, or a table with a column `split`, those of `train`.
    """
    if path.suffix.lower() in TABLE_SUFFIXES and _has_captions(path):
        return _captioned(path)
    try:
        (task,) = load_tasks(path, "train").values()
    except DataError as error:
        if path.suffix.lower() in TABLE_SUFFIXES:
            raise
        raise DataError(f"{_reason(path)}; {LAYOUTS}") from error
    source = path.resolve().stem if path.is_file() else path.resolve().name
    return [
        FileSample(key, image, {"source": source, "label": task.names.get(label, label)})
        for key, image, label in zip(task.keys, task.pictures, task.labels, strict=True)
    ]


def _has_captions(path: Path) -> bool:
    return any(name in read_table(path)[0] for name in TEXT_COLUMNS)


def _captioned(path: Path) -> list[FileSample]:
    loaded = load_captions(path, split="train")
    texts: list[list[str]] = [[] for _ in loaded.keys]
    for text, owner in zip(loaded.captions, loaded.owners, strict=True):
        texts[owner].append(clean(text))
    metadata = {"source": path.stem, "label": ""}
    return [
        FileSample(key, image, metadata, tuple(dict.fromkeys(own)))
        for key, image, own in zip(loaded.keys, loaded.media, texts, strict=True)
    ]


def _reason(path: Path) -> str:
    """Why a path holds no training data."""
    if not path.exists():
        return f"{path} does not exist"
    if not path.is_dir():
        return f"{path} is neither a directory nor a table"
    loose = sum(each.parent == path for each in list_media(path))
    if loose:
        return f"{path} holds {loose} images without a directory that names their class"
    return f"{path} holds no training data"
