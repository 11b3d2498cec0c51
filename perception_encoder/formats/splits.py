"""The splits of a dataset: their names, and those in shards, `DIRECTORY/SPLIT.tar` and `DIRECTORY/SPLIT/*.tar`."""

from __future__ import annotations

from pathlib import Path, PurePath

from perception_encoder.errors import DataError

SPLITS = ("train", "val", "test", "unseen")
ALIKE = ({"val", "valid", "validate", "validation"}, {"train", "training"}, {"test", "testing"})
"""Names of one split."""


def split_names(split: str) -> set[str]:
    """Return the names that datasets use for a split: `val` and `validation` are one."""
    return next((alike for alike in ALIKE if split in alike), {split})


def find_shards(path: Path, split: str) -> list[Path]:
    """Return the shards of a split below a directory, or `path` itself if it is a tar file.

    Raises `DataError` if there are none, and for a tar file whose own or whose directory's name is another split.
    """
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    shards = [path] if path.suffix == ".tar" else shards_below(path, split)
    if not shards:
        raise DataError(f"{path}: no {split}.tar and no {split}/*.tar")
    for shard in shards:
        if problem := split_problem(shard, split):
            raise DataError(problem)
    return shards


def split_problem(shard: PurePath | str, split: str) -> str | None:
    """Return why a tar file cannot be used as a split: its own or its directory's name is another one."""
    path = PurePath(shard)
    others = {path.stem, path.parent.name} & set(SPLITS) - {split}
    return f"{shard} is of the split {others.pop()!r}; it cannot be used as {split!r}" if others else None


def shards_below(directory: Path, split: str) -> list[Path]:
    """Return the shards of a split in a directory, if there are any."""
    whole = directory / f"{split}.tar"
    return ([whole] if whole.is_file() else []) + sorted((directory / split).glob("*.tar"))
