"""Classification sets in the usual layouts: a folder for each class, tables, Kinetics' CSV, and labelled shards.

A set of ImageNet's family is one of folders whose classes are named by a class file; ObjectNet's labels are mapped:
those without a counterpart are left out. The others are named as they are, in lower case, or with `onto` by their
counterparts, of which any is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.datasets.class_names import ClassNames, read_class_names, read_mapping
from perception_encoder.datasets.labelled import LabelledPictures, load_labelled
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.formats.entries import id_field, text_field
from perception_encoder.formats.media_directory import Clip, MediaDirectory, Source, list_media
from perception_encoder.formats.splits import SPLITS, find_shards
from perception_encoder.formats.tables import PATH_COLUMNS, TABLE_SUFFIXES, find_column, read_table

LABEL_COLUMNS = ("label", "class", "category", "wnid")
ALIKE = ({"val", "valid", "validate", "validation"}, {"train", "training"}, {"test", "testing"})
"""Names of one split."""


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """How the classes of a set are called, and how its pictures are opened."""

    classes: str = ""
    """`imagenet` or a class file (see `read_class_names`); by default folders and labels are names themselves."""
    every_class: bool = False
    """Choose from all classes of the class file, not only from those that the set has."""
    mapping: Path | None = None
    """JSON of which classes each label may be called (see `read_mapping`); labels that are not in it are left out.

    The others keep their own names, in lower case, as ObjectNet's 113 in the published mean; with `onto` they do not.
    """
    onto: str = ""
    """The classes that are mapped onto, `imagenet` or a class file, to choose from; by default the set's own."""
    media: Path | None = None
    """Folder of the files that a table names; by default the table's own."""
    trim: int = 0
    """Pixels cut off each side; 2 removes ObjectNet's red border, which the published mean leaves on."""

    def __post_init__(self) -> None:
        if self.trim < 0:
            raise ConfigError(f"trim is {self.trim}; it must be at least 0 pixels")
        if self.onto and self.mapping is None:
            raise ConfigError("`onto` needs a mapping of the set's labels to those classes")
        if self.every_class and not self.classes:
            raise ConfigError("to choose from every class there must be a class file that lists them")


def load_tasks(place: Path, split: str, options: ClassOptions | None = None) -> dict[str, LabelledPictures]:
    """The classification tasks of a place, by name.

    A table, a folder with SPLIT.tar or SPLIT/*.tar (see `load_labelled`), or a folder with a folder for each class, in
    PLACE/SPLIT or in PLACE itself. Raises DataError where there is none of these.
    """
    options = options or ClassOptions()
    if place.suffix.lower() in TABLE_SUFFIXES:
        return _named(_read_table(place, split, options), options)
    if _has_shards(place, split):
        return {name: _with_options(task, options) for name, task in load_labelled(place, split).items()}
    return _named(_read_folders(place, split), options)


def has_labels(place: Path, split: str) -> bool:
    """Whether `load_tasks` will find this split there rather than another of the place's."""
    alone = place.suffix.lower() in TABLE_SUFFIXES or not any((place / name).is_dir() for name in SPLITS)
    return alone or _has_shards(place, split) or any(path.is_dir() for path in (place / split).glob("*"))


def _named(task: LabelledPictures, options: ClassOptions) -> dict[str, LabelledPictures]:
    return {task.name: _with_options(task, options)}


def _has_shards(place: Path, split: str) -> bool:
    if place.suffix == ".tar":
        return True
    try:
        return split in SPLITS and bool(find_shards(place, split))
    except DataError:
        return False


def _read_folders(place: Path, split: str) -> LabelledPictures:
    """Pictures or videos in a folder for each class; the labels are the folders' names."""
    folder = place / split if (place / split).is_dir() else place
    folders = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    others = {name for alike in ALIKE for name in alike} & {path.name for path in folders}
    if others:
        raise DataError(f"{place} has no split {split!r}, but {', '.join(sorted(others))}; say which with --split")
    files = [(path, each.name) for each in folders for path in list_media(each)]
    if not files:
        raise DataError(
            f"{folder} holds no labelled pictures: no {split}.tar, no {split}/*.tar, and no folder for each class with "
            "pictures or videos in it"
        )
    keys = tuple(path.relative_to(folder).as_posix() for path, _ in files)
    return LabelledPictures(place.name, keys, tuple(path for path, _ in files), tuple(label for _, label in files))


def _read_table(path: Path, split: str, options: ClassOptions) -> LabelledPictures:
    """A row for each picture or video: a path and a label; or Kinetics' label, youtube_id, time_start, time_end."""
    rows = read_table(path)
    label = find_column(rows, LABEL_COLUMNS, path, "labels")
    kinetics = "youtube_id" in rows[0]
    column = "youtube_id" if kinetics else find_column(rows, PATH_COLUMNS, path, "files")
    media = MediaDirectory(options.media or path.parent)
    keys, sources, labels = [], [], []
    for place, row in of_split(rows, split, path):
        where = f"{path}: row {place + 1}"
        name, given = text_field(row, column, where), str(id_field(row, label, where))
        if not given:
            raise DataError(f"{where}: `{label}` is empty")
        key, source = _kinetics_clip(row, name, where, media) if kinetics else (name, media.find(name))
        keys.append(key)
        sources.append(source)
        labels.append(given)
    return LabelledPictures(path.stem, tuple(keys), tuple(sources), tuple(labels))


def of_split(rows: Iterable[Mapping[str, Any]], split: str, path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """The rows of a split, each with its place, if there is a field `split`; else all. `val` and `validate` are one.

    DataError, under the table's path, if no row is of the split.
    """
    names = next((alike for alike in ALIKE if split in alike), {split})
    placed = list(enumerate(rows))
    if not any(row.get("split") for _, row in placed):
        return placed
    found = [(place, row) for place, row in placed if str(row.get("split")) in names]
    if not found:
        there = ", ".join(sorted({str(row.get("split")) for _, row in placed}))
        raise DataError(f"{path}: no row is of the split {split!r}; there are: {there}")
    return found


def _kinetics_clip(row: Mapping[str, Any], identity: str, where: str, media: MediaDirectory) -> tuple[str, Source]:
    """A cut clip under either of its usual names, or the part of the whole video."""
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: a row of Kinetics needs time_start and time_end in seconds") from None
    cut = [f"{identity}_{start:06.0f}_{end:06.0f}", f"{identity}_{start:.0f}_{end:.0f}"]
    found = media.find(f"{cut[0]}.mp4", *cut, identity)
    whole = found.stem == identity and found.is_file()
    return cut[0], Clip(found, start, end) if whole else found


def _with_options(task: LabelledPictures, options: ClassOptions) -> LabelledPictures:
    """Labels as class ids, with their names and, of another set, their counterparts."""
    own = read_class_names(options.classes) if options.classes else _plain_classes(task)
    labels = [own.find(label) for label in task.labels]
    rows, accepted, target = list(range(len(labels))), {}, own
    if options.mapping is not None:
        target = read_class_names(options.onto) if options.onto else own
        mapping = read_mapping(options.mapping, target if options.onto else None)
        counterparts = {each: mapping.get(each, mapping.get(own.name(each))) for each in set(labels)}
        rows = [row for row in rows if counterparts[labels[row]]]
        if not rows:
            raise DataError(f"{options.mapping} maps none of the labels of {task.name}: {labels[0]!r} …")
        accepted = {each: found for each, found in counterparts.items() if found} if options.onto else {}
    lower = options.mapping is not None and not options.onto
    kept = {labels[row] for row in rows}
    wanted = {each for found in accepted.values() for each in found} if accepted else kept
    choices = tuple(each for each in target.ids if options.every_class or each in wanted)
    return LabelledPictures(
        name=task.name,
        keys=tuple(task.keys[row] for row in rows),
        pictures=tuple(task.pictures[row] for row in rows),
        labels=tuple(labels[row] for row in rows),
        choices=choices,
        names={each: target.name(each).lower() if lower else target.name(each) for each in choices},
        accepted=accepted,
        trim=options.trim,
    )


def _plain_classes(task: LabelledPictures) -> ClassNames:
    """Labels that are their own names, but for underscores."""
    return ClassNames(task.classes, tuple(label.replace("_", " ") for label in task.classes), task.name)
