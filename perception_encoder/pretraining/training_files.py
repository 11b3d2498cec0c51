"""Read training samples from a directory for each class, or a table of paths and labels or captions."""

from __future__ import annotations

from pathlib import Path

from perception_encoder.data.image_text import FileSample
from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.classified import load_tasks
from perception_encoder.errors import DataError
from perception_encoder.formats.media_directory import list_media
from perception_encoder.formats.shards import shards_below, split_names
from perception_encoder.formats.tables import TABLE_SUFFIXES, TEXT_COLUMNS, read_table
from perception_encoder.preprocess.source import escape_name
from perception_encoder.preprocess.tokenizer import clean

LAYOUTS = (
    "--data takes a directory with a directory of images for each class (DIR/CLASS/*.jpg or DIR/train/CLASS/*.jpg), a "
    "table (.csv, .tsv, .jsonl, .parquet) with a column `path` and a column `label` or `caption`, or a directory with "
    "train.tar or train/*.tar; --shards takes tars of KEY.jpg and KEY.txt"
)


def read_files(path: Path, split: str = "train") -> list[FileSample]:
    """Read a split of a directory or table, undecoded and in order; DataError names the layouts otherwise.

    A directory without splits, or a table without a column `split`, is read whole.
    """
    if path.suffix.lower() in TABLE_SUFFIXES and _has_captions(path):
        return _read_captioned(path, split)
    try:
        (task,) = load_tasks(path, split).values()
    except DataError as error:
        if path.suffix.lower() in TABLE_SUFFIXES:
            raise
        raise DataError(f"{_reason(path)}; {LAYOUTS}") from error
    source = escape_name(path.resolve().stem if path.is_file() else path.resolve().name)
    return [
        FileSample(key, image, {"source": source, "label": task.names.get(label, label)})
        for key, image, label in zip(task.keys, task.images, task.labels, strict=True)
    ]


def has_split(path: Path, split: str) -> bool:
    """Return whether a directory or table says which samples are of a split, and has some."""
    if path.suffix.lower() in TABLE_SUFFIXES:
        names = split_names(split)
        return any(str(row.get("split")) in names for row in read_table(path))
    return path.is_dir() and (bool(shards_below(path, split)) or any(each.is_dir() for each in path.glob(f"{split}/*")))


def _has_captions(path: Path) -> bool:
    return any(name in read_table(path)[0] for name in TEXT_COLUMNS)


def _read_captioned(path: Path, split: str) -> list[FileSample]:
    loaded = load_captions(path, split=split)
    texts: list[list[str]] = [[] for _ in loaded.keys]
    for text, owner in zip(loaded.captions, loaded.owners, strict=True):
        texts[owner].append(clean(text))
    metadata = {"source": escape_name(path.stem), "label": ""}
    return [
        FileSample(key, image, metadata, tuple(dict.fromkeys(own)))
        for key, image, own in zip(loaded.keys, loaded.media, texts, strict=True)
    ]


def _reason(path: Path) -> str:
    """Return why a path holds no training data."""
    if not path.exists():
        return f"{path} does not exist"
    if not path.is_dir():
        return f"{path} is neither a directory nor a table"
    if loose := sum(each.parent == path for each in list_media(path)):
        return f"{path} holds {loose} images without a directory that names their class"
    return f"{path} holds no training data"
