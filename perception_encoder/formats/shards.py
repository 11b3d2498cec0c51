"""WebDataset shards: tar files of samples, each an image KEY.png|jpg|jpeg|webp and its KEY.json."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any

from perception_encoder.errors import DataError
from perception_encoder.files import replacing, writing
from perception_encoder.formats.entries import id_field
from perception_encoder.formats.tars import TarMember, check_entry, open_tar, read_entry
from perception_encoder.preprocess.source import SHARD_IMAGES
from perception_encoder.records import parse_json

SPLITS = ("train", "val", "test", "unseen")
"""A split's shards are `DIRECTORY/SPLIT.tar` and `DIRECTORY/SPLIT/*.tar`."""
SAME_SPLITS = ({"val", "valid", "validate", "validation"}, {"train", "training"}, {"test", "testing"})
"""Names of one split."""


class Labelled:
    """What a sample's metadata say."""

    metadata: Mapping[str, Any]

    @property
    def source(self) -> str:
        """The image's collection."""
        return str(self.metadata["source"])

    @property
    def label(self) -> str:
        """The image's class."""
        return str(self.metadata["label"])


@dataclass(frozen=True)
class ShardSample(Labelled):
    """An image and its metadata."""

    key: str
    extension: str
    image: bytes
    metadata: dict[str, Any]


def write_members(path: Path, members: Iterable[tuple[str, bytes]]) -> int:
    """Write files by name, in order, as the tar file `path`, atomically; return their number."""
    count = 0
    with writing(path), replacing(path) as temporary, new_tar(temporary) as tar:
        for name, content in members:
            add_member(tar, name, content)
            count += 1
    return count


def new_tar(path: Path) -> tarfile.TarFile:
    """Open a tar file for writing, in which the same members make the same bytes."""
    return tarfile.open(path, "w", format=tarfile.USTAR_FORMAT)


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def json_bytes(metadata: Mapping[str, Any]) -> bytes:
    """Serialise metadata deterministically."""
    return json.dumps(metadata, ensure_ascii=False, sort_keys=True).encode(errors="backslashreplace")


def present_fields(metadata: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Return metadata that `load_dataset("webdataset")` reads: missing strings become empty, other missing fields go.

    It takes the types from the first samples: a field that is null or an empty list in these may not be another later.
    """
    present = {name: value for name, value in metadata.items() if value is not None and value != []}
    return {**dict.fromkeys(texts, ""), **present}


def read_shard(path: Path) -> Iterator[ShardSample]:
    """Read a shard's samples in order; members that are neither images nor JSON are skipped.

    Raises `DataError` for a file that is not a tar, or is damaged, and for an image without a JSON object beside it
    that has a `source` and a `label`.
    """
    for key, extension, parts in read_samples(path, SHARD_IMAGES):
        yield ShardSample(key, extension, parts[extension], _labelled(path, key, parts["json"]))


def read_samples(
    path: Path, media: tuple[str, ...], others: tuple[str, ...] = ("json",), load: bool = True
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield the key, media extension and parts of each sample of a tar, in order.

    Raises DataError for a damaged tar, and after the last sample if some lack a file.

    Args:
        media: Extensions of the media file; of several files, the one whose extension comes first is used.
        others: Extensions of further files that each sample must have.
        load: Yield media as their contents, as the other parts, and not as a `TarMember`.
    """
    waiting: dict[str, dict[str, Any]] = {}
    with open_tar(path) as (stream, entries):
        for entry in entries:
            key, extension = split_member(entry.name)
            if extension not in (*media, *others):
                continue
            parts = waiting.setdefault(key, {})
            if load or extension in others:
                parts[extension] = read_entry(stream, entry)
            else:
                check_entry(entry)
                parts[extension] = TarMember(path, entry.offset, entry.size)
            found = next((name for name in media if name in parts), None)
            if found and all(name in parts for name in others):
                yield key, found, waiting.pop(key)
    if waiting:
        kind = "a video" if "mp4" in media else "an image"
        lacking = " or ".join([kind, *(f"a .{name}" for name in others)])
        raise DataError(f"{path}: {len(waiting)} samples lack {lacking}; the first is {next(iter(waiting))}")


def read_members(path: Path, extensions: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Read the files of a tar with one of some extensions, in order; DataError if it is damaged or not a tar."""
    with open_tar(path) as (stream, entries):
        for entry in entries:
            if split_member(entry.name)[1] in extensions:
                yield entry.name, read_entry(stream, entry)


def split_member(name: str) -> tuple[str, str]:
    """Split a name into key and lower-case extension, which starts at the base name's first dot as in WebDataset."""
    directory, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return directory + slash + stem, extension.lower()


def json_object(where: str, text: bytes) -> dict[str, Any]:
    """Parse a JSON object; `where`, for errors, lacks the suffix. DataError if it is not one."""
    try:
        value = parse_json(text, object)
    except ValueError as error:
        raise DataError(f"{where}.json is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}.json is not a JSON object")
    return value


def _labelled(path: Path, key: str, text: bytes) -> dict[str, Any]:
    value = json_object(f"{path}: {key}", text)
    if not {"source", "label"} <= value.keys():
        raise DataError(f"{path}: {key}.json is not an object with a `source` and a `label`")
    for name in ("source", "label"):
        id_field(value, name, f"{path}: {key}.json")
    return value


def split_names(split: str) -> set[str]:
    """Return all names for a split; `val` and `validation` are the same."""
    return next((names for names in SAME_SPLITS if split in names), {split})


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
    """Return why a tar cannot be used as a split, if its name or directory belongs to another split."""
    path = PurePath(shard)
    others = {path.stem, path.parent.name} & set(SPLITS) - {split}
    return f"{shard} is of the split {others.pop()!r}; it cannot be used as {split!r}" if others else None


def shards_below(directory: Path, split: str) -> list[Path]:
    """Return the shards of a split in a directory, if there are any."""
    whole = directory / f"{split}.tar"
    return ([whole] if whole.is_file() else []) + sorted((directory / split).glob("*.tar"))


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


def read_shard_pairs(tars: list[Path], extension: str) -> Iterator[tuple[str, TarMember, bytes]]:
    """Yield TAR/KEY, the image's location, and the text beside it, in order; images are not read.

    DataError names a damaged tar, and a sample that lacks an image or a text.
    """
    for tar in tars:
        for key, found, parts in read_samples(tar, SHARD_IMAGES, (extension,), load=False):
            yield f"{tar.stem}/{key}", parts[found], parts[extension]


MASK = "mask.png"
