"""WebDataset tars in the layouts of CLIP_benchmark and open_clip: KEY.webp, .png or .jpg beside a class or captions.

CLIP_benchmark: DIR/test/0.tar, 1.tar, … with KEY.cls (a class index from 0) or KEY.txt (one caption per line), and
DIR/classnames.txt (one class name per line). open_clip: DIR/*.tar, without splits.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import quoted, read_lines
from perception_encoder.formats.shards import SPLITS, read_samples, split_member, split_names, split_problem
from perception_encoder.formats.tars import TarMember, open_tar
from perception_encoder.preprocess.source import SHARD_IMAGES

logger = logging.getLogger(__name__)

CLASS, CAPTIONS = "cls", "txt"
CLASS_NAMES = "classnames.txt"


def find_tars(path: Path, split: str) -> list[Path]:
    """Return the tars of a split in order: `path` itself, PATH/SPLIT.tar, PATH/SPLIT/*.tar, or PATH/*.tar.

    The last only if no directory or tar there is called like a split. Empty if there are none; DataError for a tar of
    another split.
    """
    if path.suffix == ".tar" and path.is_file():
        if problem := split_problem(path, split):
            raise DataError(problem)
        return [path]
    for name in sorted(split_names(split)):
        tars = [item for item in (path / f"{name}.tar",) if item.is_file()] + _by_number(path / name)
        if tars:
            return tars
    if any((path / name).is_dir() or (path / f"{name}.tar").exists() for name in SPLITS):
        return []
    return _by_number(path)


def _by_number(directory: Path) -> list[Path]:  # 2.tar before 10.tar
    return sorted(directory.glob("*.tar"), key=lambda tar: (len(tar.name), tar.name))


def has_members(path: Path, split: str, *extensions: str) -> bool:
    """Return whether the first sample of a split's tars has a member with an extension; False if unreadable."""
    try:
        for tar in find_tars(path, split)[:1]:
            with open_tar(tar) as (_, entries):
                members = (split_member(entry.name) for entry in entries)
                for _, sample in groupby(members, lambda member: member[0]):
                    return any(extension in extensions for _, extension in sample)
    except DataError:
        pass
    return False


def load_numbered(path: Path, split: str) -> LabelledImages:
    """Read a split with class numbers as labels, named in `classnames.txt`; any class can be chosen.

    Without that file, the labels are the names. Raises DataError for a damaged tar, an image without a number, and a
    number without a name.
    """
    tars = find_tars(path, split)
    directories = (path, tars[0].parent, tars[0].parent.parent)
    names_file = next((place / CLASS_NAMES for place in directories if (place / CLASS_NAMES).is_file()), None)
    names = [] if names_file is None else [line.strip() for line in read_lines(names_file)]
    while names and not names[-1]:
        del names[-1]
    if not names:
        logger.warning("%s has no %s: its classes have only numbers unless you name them", path, CLASS_NAMES)
    keys, images, labels = [], [], []
    for key, image, text in read_pairs(tars, CLASS):
        number = text.decode("ascii", "replace").strip()
        if not number.isdecimal() or len(number) > 9 or (names and int(number) >= len(names)):
            allowed = f"0 to {len(names) - 1}, the lines of {names_file}" if names else "0 and up"
            raise DataError(f"{key}.{CLASS} is {quoted(number)}; it must be a class's number, {allowed}")
        keys.append(key)
        images.append(image)
        labels.append(str(int(number)))
    choices = tuple(map(str, range(len(names))))
    title = path.stem if path.is_file() else path.name
    named = dict(zip(choices, names, strict=True))
    return LabelledImages(title, tuple(keys), tuple(images), tuple(labels), choices, named)


def read_pairs(tars: list[Path], extension: str) -> Iterator[tuple[str, TarMember, bytes]]:
    """Yield TAR/KEY, the image's location, and the text beside it, in order; images are not read.

    DataError names a damaged tar, and a sample that lacks an image or a text.
    """
    for tar in tars:
        for key, found, parts in read_samples(tar, SHARD_IMAGES, (extension,), load=False):
            yield f"{tar.stem}/{key}", parts[found], parts[extension]
