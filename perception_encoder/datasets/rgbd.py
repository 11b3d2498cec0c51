"""Read images with the depth of each pixel: NYU-style directories, TUM's, directories or tars of pairs.

Depths are 16-bit integers, 0 is unknown. A path without splits is cut, the first three fifths by name to train on: they
are often frames of one video, which count as one block in every interval, as do images of one directory.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from perception_encoder.datasets.labelled import ImageSet, Stored, read_integers
from perception_encoder.errors import DataError
from perception_encoder.formats.shards import read_members, shards_below, split_member
from perception_encoder.preprocess.source import SHARD_IMAGES, escape_name

MILLIMETRES = 1000.0


@dataclass(frozen=True, kw_only=True)
class DepthImages(ImageSet):
    """Stored images and depths."""

    _per_item: ClassVar[tuple[str, ...]] = ("keys", "images", "depths", "blocks")

    depths: tuple[Stored, ...]
    per_metre: float = MILLIMETRES
    blocks: tuple[str, ...]
    """The block of each image for intervals: its sequence, or its own name."""

    def depth(self, index: int) -> Float[np.ndarray, "H W"]:
        """Decode a depth, float32 metres, 0 if unknown; MediaDecodeError if it is not a 16-bit image."""
        name, modes = f"{self.keys[index]} (depth)", ("I;16", "I;16B", "I")
        pixels, _ = read_integers(self.depths[index], name, modes, "depths must be 16-bit integers")
        return pixels.astype(np.float32) / self.per_metre


def read_depth_splits(path: Path, per_metre: float = MILLIMETRES) -> tuple[DepthImages, DepthImages]:
    """Read the training and the test set: see the module; DataError if an image or its depth is missing."""
    train, test = (
        shards_below(path, split) or [place for place in (path / split,) if place.is_dir()]
        for split in ("train", "test")
    )
    if bool(train) != bool(test):
        raise DataError(f"{path} has only one of train and test; it needs both or neither")
    if train:
        name = escape_name(path.name)
        return _read(train, f"{name}/train", per_metre), _read(test, f"{name}/test", per_metre)
    train_set, test_set = _read([path], escape_name(path.stem), per_metre, one_sequence=True).cut()
    if not train_set.keys:
        raise DataError(f"{path}: {len(test_set.keys)} images are too few to split for training and testing")
    return train_set, test_set


def _read(paths: list[Path], name: str, per_metre: float, one_sequence: bool = False) -> DepthImages:
    """`one_sequence`: whether images outside any directory are frames of one sequence, as in TUM's rgb/."""
    images: dict[str, Stored] = {}
    depths: dict[str, Stored] = {}
    for path in paths:
        for key, is_depth, stored in _members(path) if path.is_file() else _files(path):
            part = depths if is_depth else images
            if key in part:
                raise DataError(f"{name}: two images have the name {key}; names must be unique")
            part[key] = stored
    if not depths:
        raise DataError(f"{name} has no depth file; expected KEY.depth.png, sync_depth_N.png or depth/KEY.png")
    if lacking := sorted(images.keys() ^ depths.keys()):
        raise DataError(f"{name}: {len(lacking)} images lack a depth or depths an image; the first is {lacking[0]}")
    keys = tuple(sorted(images))
    one_sequence = one_sequence or any((path / "rgb").is_dir() for path in paths)
    return DepthImages(
        name=name,
        keys=keys,
        images=tuple(images[key] for key in keys),
        depths=tuple(depths[key] for key in keys),
        per_metre=per_metre,
        blocks=tuple(key.rpartition("/")[0] or ("" if one_sequence else key) for key in keys),
    )


def _members(path: Path) -> Iterator[tuple[str, bool, Stored]]:
    """Yield each file's key, whether it is a depth, and its content."""
    for name, content in read_members(path, (*SHARD_IMAGES, "depth.png")):
        key, extension = split_member(name)
        yield key, extension == "depth.png", content


def _files(directory: Path) -> Iterator[tuple[str, bool, Stored]]:
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if match := re.fullmatch(r"(.*?)(?:sync_depth_(\d+)|depth/([^/]+?)|([^/]+)\.depth)\.png", name):
            yield match[1] + (match[2] or match[3] or match[4]), True, path
        elif path.suffix.lower().removeprefix(".") in SHARD_IMAGES and not name.endswith(".mask.png"):
            yield re.sub(r"(^|/)(?:rgb_|rgb/)([^/]+)$", r"\1\2", name.removesuffix(path.suffix)), False, path
