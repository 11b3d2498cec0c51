"""Pictures with the depth of each pixel: NYU-style folders, folders or tar files of pairs, and rendered scenes.

    PLACE/train.tar  PLACE/train/*.tar  PLACE/train/      and the same of test: KEY.jpg with KEY.depth.png
    …/SCENE/rgb_00045.jpg  …/SCENE/sync_depth_00045.png   NYU Depth v2, as it is handed on for training and testing
    …/rgb/KEY.jpg  …/depth/KEY.png                        TUM and others

Depths are 16-bit integers, by default in millimetres (TUM's are 5000 a metre); 0 is unknown. A place without splits is
cut: the first three fifths, in the order of their names, are trained on. They are often frames of one video, so that a
random cut would test on what was all but seen; they count as one block in every interval, as do images of one folder.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from perception_encoder.datasets.masked_videos import Stored
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.formats.shards import read_members, split_member
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.media_types import SHARD_IMAGES

TRAINED = 3, 5
"""Share of a place without splits that is trained on."""
MILLIMETRES = 1000.0


@dataclass(frozen=True, kw_only=True)
class DepthPictures:
    """Pictures and their depths, as stored."""

    name: str
    keys: tuple[str, ...]
    pictures: tuple[Stored, ...]
    depths: tuple[Stored, ...]
    per_metre: float = MILLIMETRES
    """Units of the stored integers in a metre."""
    sequences: tuple[str, ...] = ()
    """The sequence that each is a frame of; empty where each is a block by itself."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """What is drawn together for an interval: the sequence of each image, or its own name."""
        return self.sequences or self.keys

    def open(self, place: int) -> Image.Image:
        """The picture at a place, RGB; InputError for one that cannot be decoded."""
        return open_image(self.pictures[place], self.keys[place]).convert("RGB")

    def depth(self, place: int) -> Float[np.ndarray, "H W"]:
        """The depth at a place, float32 metres, 0 where unknown; MediaDecodeError where it is no picture of 16 bits."""
        name, stored = f"{self.keys[place]} (depth)", self.depths[place]
        try:
            with Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored) as image:
                if image.mode not in ("I;16", "I;16B", "I"):
                    raise MediaDecodeError(name, f"has the mode {image.mode}; depths are integers of 16 bits")
                return np.asarray(image).astype(np.float32) / self.per_metre
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise MediaDecodeError(name, f"cannot be decoded: {error}") from error

    def some(self, rows: Sequence[int]) -> DepthPictures:
        """A part of them."""
        of = {name: getattr(self, name) for name in ("keys", "pictures", "depths", "sequences")}
        parts: dict[str, Any] = {name: tuple(every[row] for row in rows) if every else () for name, every in of.items()}
        return replace(self, **parts)


def read_depth_splits(place: Path, per_metre: float = MILLIMETRES) -> tuple[DepthPictures, DepthPictures]:
    """What is trained on and what is tested on: see the module; DataError where a picture or its depth is missing."""
    train, test = (split_places(place, split) for split in ("train", "test"))
    if bool(train) != bool(test):
        raise DataError(f"{place}: has one of train and test, and needs both or none")
    if train:
        return _read(train, f"{place.name}/train", per_metre), _read(test, f"{place.name}/test", per_metre)
    both = _read([place], place.stem, per_metre, one_sequence=True)
    cut = len(both.keys) * TRAINED[0] // TRAINED[1]
    if not cut:
        raise DataError(f"{place}: {len(both.keys)} pictures are too few to train on some and test on others")
    return both.some(range(cut)), both.some(range(cut, len(both.keys)))


def split_places(place: Path, split: str) -> list[Path]:
    """The tar files or the folder of a split; none where the place has no such split."""
    whole, folder = place / f"{split}.tar", place / split
    tars = ([whole] if whole.is_file() else []) + sorted(folder.glob("*.tar"))
    return tars or ([folder] if folder.is_dir() else [])


def _read(places: list[Path], name: str, per_metre: float, one_sequence: bool = False) -> DepthPictures:
    """`one_sequence`: whether images that lie in no folder are frames of one sequence, as those of TUM's rgb/ are."""
    pictures: dict[str, Stored] = {}
    depths: dict[str, Stored] = {}
    for place in places:
        for key, kind, stored in _members(place) if place.is_file() else _files(place):
            kept = depths if kind == "depth" else pictures
            if key in kept:
                raise DataError(f"{name}: two pictures are called {key}; their names must differ")
            kept[key] = stored
    _check_pairs(name, pictures, depths)
    keys = tuple(sorted(pictures))
    ordered = tuple(tuple(part[key] for key in keys) for part in (pictures, depths))
    one_sequence = one_sequence or any((place / "rgb").is_dir() for place in places)
    sequences = tuple(key.rpartition("/")[0] or ("" if one_sequence else key) for key in keys)
    return DepthPictures(
        name=name, keys=keys, pictures=ordered[0], depths=ordered[1], per_metre=per_metre, sequences=sequences
    )


def _check_pairs(name: str, pictures: Mapping[str, Stored], depths: Mapping[str, Stored]) -> None:
    if not depths:
        raise DataError(f"{name}: there is no depth; KEY.depth.png, sync_depth_N.png or depth/KEY.png are looked for")
    if lacking := sorted(pictures.keys() - depths.keys()):
        raise DataError(f"{name}: {len(lacking)} pictures have no depth; the first is {lacking[0]}")
    if lacking := sorted(depths.keys() - pictures.keys()):
        raise DataError(f"{name}: {len(lacking)} depths have no picture; the first is {lacking[0]}")


def _members(path: Path) -> Iterator[tuple[str, str, Stored]]:
    for name, content in read_members(path, (*SHARD_IMAGES, "depth.png")):
        key, extension = split_member(name)
        yield key, "depth" if extension == "depth.png" else "picture", content


def _files(folder: Path) -> Iterator[tuple[str, str, Stored]]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if found := re.fullmatch(r"(.*?)(?:sync_depth_(\d+)|depth/([^/]+?)|([^/]+)\.depth)\.png", name):
            yield found[1] + (found[2] or found[3] or found[4]), "depth", path
        elif path.suffix.lower().removeprefix(".") in SHARD_IMAGES and not name.endswith((".mask.png",)):
            yield re.sub(r"(^|/)(?:rgb_|rgb/)([^/]+)$", r"\1\2", name.removesuffix(path.suffix)), "picture", path
