"""WebDataset tars in the layouts of CLIP_benchmark and open_clip: KEY.webp, .png or .jpg beside a class or captions.

CLIP_benchmark: DIR/test/0.tar, 1.tar, … with KEY.cls (a class index from 0) or KEY.txt (one caption per line), and
DIR/classnames.txt (one class name per line). open_clip: DIR/*.tar, without splits.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import quoted, read_lines
from perception_encoder.formats.shards import SPLITS, split_member, split_names, split_problem
from perception_encoder.formats.tars import TarMember, check_entry, read_entry, walk_tar
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


def _by_number(directory: Path) -> list[Path]:
    """Return the tars in a directory in numerical order, 2.tar before 10.tar."""
    return sorted(directory.glob("*.tar"), key=lambda tar: (len(tar.name), tar.name))


def has_members(path: Path, split: str, extension: str) -> bool:
    """Return whether the first sample of a split's tars has a member with an extension; False if unreadable."""
    try:
        for tar in find_tars(path, split)[:1]:
            first: str | None = None
            for key, found, _, _ in _members(tar):
                first = key if first is None else first
                if key != first:
                    return False
                if found == extension:
                    return True
    except DataError:
        pass
    return False


def load_numbered(path: Path, split: str) -> LabelledImages:
    """Read a split with class numbers as labels, named in `classnames.txt`; any class can be chosen.

    Without that file, the labels are the names. Raises DataError for a damaged tar, an image without a number, and a
    number without a name.
    """
    tars = find_tars(path, split)
    names_file = next((place for place in _places(path, tars) if place.is_file()), None)
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


def _places(path: Path, tars: list[Path]) -> list[Path]:
    """Yield the directories in which to look for class names: beside the split's directory, and beside its tars."""
    return [directory / CLASS_NAMES for tar in tars[:1] for directory in (path, tar.parent, tar.parent.parent)]


def read_pairs(tars: list[Path], extension: str) -> Iterator[tuple[str, TarMember, bytes]]:
    """Yield TAR/KEY, the image's location, and the text beside it, in order; images are not read.

    DataError names a damaged tar, and a sample that lacks an image or a text.
    """
    for tar in tars:
        images: dict[str, TarMember] = {}
        texts: dict[str, bytes] = {}
        for key, found, member, content in _members(tar, extension):
            if found == extension:
                texts[key] = content
            elif found in SHARD_IMAGES:
                images[key] = member
            if key in images and key in texts:
                yield f"{tar.stem}/{key}", images.pop(key), texts.pop(key)
        if lonely := [*images, *texts]:
            raise DataError(f"{tar}: {len(lonely)} samples lack an image or a .{extension}; the first is {lonely[0]}")


def _members(tar: Path, read: str = "") -> Iterator[tuple[str, str, TarMember, bytes]]:
    """Yield each member's key, extension and location, and its content if its extension is `read`."""
    try:
        with tar.open("rb") as stream:
            for entry in walk_tar(stream, os.fstat(stream.fileno()).st_size):
                key, extension = split_member(entry.name)
                if read and extension in SHARD_IMAGES:
                    check_entry(entry)
                content = read_entry(stream, entry) if read and extension == read else b""
                yield key, extension, TarMember(tar, entry.offset, entry.size), content
    except (OSError, DataError) as error:
        raise DataError(f"{tar}: not a readable tar file ({getattr(error, 'strerror', None) or error})") from error
