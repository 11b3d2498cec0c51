"""Read classification datasets in the usual layouts: class directories, tables, the hub's Parquet files, Kinetics'
CSV, UCF-101's lists, labelled shards.

ImageNet's own classes are `imagenet`: their WordNet ids from timm, and OpenAI's cleaned names from open_clip. The
datasets of its family name their directories by WordNet id (-A, -R, -Sketch), by number (-V2) or by words of their own.
Those are ObjectNet's, which are mapped: labels without a counterpart are left out; the others keep their names, in
lower case, or with `onto` take those of their counterparts.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from perception_encoder.datasets.labelled import LabelledImages, load_labelled
from perception_encoder.errors import ConfigError, DataError, needs_extra
from perception_encoder.formats.entries import id_field, quoted, read_json, read_lines, text_field
from perception_encoder.formats.media_directory import Clip, MediaDirectory, MediaSource, list_media
from perception_encoder.formats.shards import (
    SAME_SPLITS,
    SPLITS,
    find_tars,
    has_members,
    read_shard_pairs,
    shards_below,
    split_names,
)
from perception_encoder.formats.tables import (
    LABEL_COLUMNS,
    MEDIA_COLUMNS,
    PATH_COLUMNS,
    class_names_of,
    find_column,
    has_media,
    read_image_table,
    read_table,
    split_tables,
)
from perception_encoder.preprocess.source import TABLE_SUFFIXES, escape_name

IMAGENET = "imagenet"


@dataclass(frozen=True)
class ClassNames:
    """Ordered classes."""

    ids: tuple[str, ...]
    names: tuple[str, ...]
    source: str = "the classes"
    """Name of the set, for errors."""
    synonyms: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Ids by alternative names, in lower case."""

    def find(self, label: str) -> str:
        """Return the id of a label: an id, a class number, or a name in any case, with spaces or underscores.

        Raises DataError for an unknown label.
        """
        if label in self._known:
            return label
        if label.isdecimal() and len(label) < 10 and int(label) < len(self.ids):
            return self.ids[int(label)]
        identity = self._by_name.get(_plain(label))
        if identity is None:
            raise DataError(f"{label!r} is not a class of {self.source}, which has {len(self.ids)}: {self.ids[0]!r} …")
        return identity

    def name(self, identity: str) -> str:
        return self._known[identity]

    @cached_property
    def _known(self) -> dict[str, str]:
        return dict(zip(self.ids, self.names, strict=True))

    @cached_property
    def _by_name(self) -> dict[str, str]:
        named = {_plain(name): identity for identity, name in reversed(self._known.items())}
        return {**self.synonyms, **named}


def _plain(name: str) -> str:
    return " ".join(name.replace("_", " ").lower().split())


def read_class_names(source: str) -> ClassNames:
    """Read class names: `imagenet`, or a file.

    A JSON file holds {"directory": "name"}, {"0": ["wnid", "name"]} (as `imagenet_class_index.json`) or a list of names
    in order; a text file has lines of `id<TAB>name`, `wnid name, synonym` (as `LOC_synset_mapping.txt`) or `name`.
    Raises DataError for anything else, and MissingExtraError without the packages that hold ImageNet's.
    """
    if source == IMAGENET:
        return imagenet_classes()
    path = Path(source)
    pairs = _pairs_of_json(path) if path.suffix.lower() == ".json" else _pairs_of_lines(path)
    ids, names = [identity for identity, _ in pairs], [name for _, name in pairs]
    if not ids or len(set(ids)) < len(ids):
        twice = next((identity for identity in ids if ids.count(identity) > 1), None)
        raise DataError(f"{path} names {'the class ' + repr(twice) + ' twice' if twice else 'no class'}")
    return ClassNames(tuple(ids), tuple(names), str(path))


def imagenet_classes() -> ClassNames:
    """Return the 1000 classes of ImageNet: WordNet ids in order, with the names from OpenAI's prompts."""
    with needs_extra("eval", "open_clip_torch"):
        from open_clip import IMAGENET_CLASSNAMES
        from timm.data import ImageNetInfo
    ids, lemmas = ImageNetInfo().label_names(), ImageNetInfo().label_descriptions()
    synonyms = [(name, identity) for identity, names in zip(ids, lemmas, strict=True) for name in names.split(",")]
    clear = _clear(synonyms) | _clear(zip(lemmas, ids, strict=True))
    return ClassNames(tuple(ids), tuple(IMAGENET_CLASSNAMES), "ImageNet", clear)


def _clear(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return ids by unambiguous name; "crane", for example, names two classes."""
    meanings: dict[str, set[str]] = {}
    for name, identity in pairs:
        meanings.setdefault(_plain(name), set()).add(identity)
    return {name: ids.pop() for name, ids in meanings.items() if len(ids) == 1}


def _pairs_of_json(path: Path) -> list[tuple[str, str]]:
    value = read_json(path)
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return [(str(number), name) for number, name in enumerate(value)]
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return list(value.items())
    if isinstance(value, dict) and all(isinstance(pair, list) for pair in value.values()):
        with suppress(ValueError, AttributeError, TypeError):
            return [(str(identity), name.replace("_", " ")) for identity, name in value.values()]
    raise DataError(f"{path} is neither a list of names nor an object of names by directory")


def _pairs_of_lines(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for line in filter(None, map(str.strip, read_lines(path))):
        wnid = re.fullmatch(r"(n\d{8})\s+([^,]+).*", line)
        identity, tab, name = line.partition("\t")
        if wnid:
            pairs.append((wnid[1], wnid[2].strip()))
        else:
            pairs.append((identity.strip(), name.strip() if tab else identity))
    return pairs


def read_mapping(path: Path, classes: ClassNames | None = None) -> dict[str, frozenset[str]]:
    """Read a JSON object that maps each label of another dataset to the classes it counts as.

    The values are a class, or several with `;` between them, as in ObjectNet's `objectnet_to_imagenet_1k.json`; each is
    an id, a number or a name of `classes`, or stays as it is without those. Raises DataError for anything else.
    """
    value = read_json(path)
    if not isinstance(value, dict) or not all(isinstance(names, str) for names in value.values()):
        raise DataError(f"{path} is not a JSON object of classes by label")
    try:
        return {
            label: frozenset(classes.find(name.strip()) if classes else name.strip() for name in names.split(";"))
            for label, names in value.items()
        }
    except DataError as error:
        raise DataError(f"{path}: {error}; give ids, numbers or names") from None


logger = logging.getLogger(__name__)

CLASS, CLASS_NAMES, TEMPLATES = "cls", "classnames.txt", "zeroshot_classification_templates.txt"


@dataclass(frozen=True, kw_only=True)
class ClassOptions:
    """Names of a dataset's classes, and how its images are opened."""

    classes: str = ""
    """`imagenet` or a class file (see `read_class_names`); by default directories and labels are the names."""
    mapping: Path | None = None
    """JSON file of the classes that each label counts as (see `read_mapping`); other labels are left out.

    The mapped labels keep their names, in lower case, like ObjectNet's 113 in the published mean, unless `onto` is set.
    """
    onto: str = ""
    """The classes to map labels onto: `imagenet` or a class file; by default the dataset's."""
    media: Path | None = None
    """Directory of a table's files; by default the table's directory."""
    trim: int = 0
    """Pixels to crop from each side; 2 removes ObjectNet's red border, which the published mean includes."""

    def __post_init__(self) -> None:
        if self.trim < 0:
            raise ConfigError(f"trim is {self.trim}; it must be at least 0 pixels")
        if self.onto and self.mapping is None:
            raise ConfigError("`onto` needs a mapping of labels to those classes")


def load_tasks(path: Path, split: str, options: ClassOptions | None = None) -> dict[str, LabelledImages]:
    """Read the classification tasks of a path, by name.

    A table, a directory with SPLIT.tar or SPLIT/*.tar (see `load_labelled`, or CLIP_benchmark's), one with the hub's
    SPLIT-*.parquet, a list of UCF-101's (lines of CLASS/FILE), or a directory with one for each class, in PATH/SPLIT or
    in PATH itself. Raises DataError for anything else.
    """
    options = options or ClassOptions()
    if tables := media_tables(path, split):
        tasks = [_read_media_tables(path, tables)]
    elif path.suffix.lower() == ".txt":
        tasks = [_read_list(path, options)]
    elif path.suffix.lower() in TABLE_SUFFIXES:
        tasks = [_read_table(path, split, options)]
    elif has_members(path, split, CLASS):
        tasks = [_load_numbered(path, split)]
    elif _has_shards(path, split):
        tasks = list(load_labelled(path, split).values())
    else:
        tasks = [_read_directories(path, split)]
    return {task.name: _with_options(task, options) for task in tasks}


def _load_numbered(path: Path, split: str) -> LabelledImages:
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
    rows: list[tuple[str, MediaSource, str]] = []
    for key, image, text in read_shard_pairs(tars, CLASS):
        number = text.decode("ascii", "replace").strip()
        if not number.isdecimal() or len(number) > 9 or (names and int(number) >= len(names)):
            allowed = f"0 to {len(names) - 1}, the lines of {names_file}" if names else "0 and up"
            raise DataError(f"{key}.{CLASS} is {quoted(number)}; it must be a class's number, {allowed}")
        rows.append((key, image, str(int(number))))
    choices = tuple(map(str, range(len(names))))
    title = path.stem if path.is_file() else path.name
    named = dict(zip(choices, names, strict=True))
    files = (place / TEMPLATES for place in directories)
    lines = [line.strip().replace("{c}", "{}") for file in files if file.is_file() for line in read_lines(file)]
    templates = tuple(line for line in dict.fromkeys(lines) if "{}" in line)
    return LabelledImages.of(title, rows, choices=choices, names=named, templates=templates)


def media_tables(path: Path, split: str) -> list[Path]:
    """Return the Parquet files of a split that hold images or videos themselves, of a directory or of its `data`."""
    places = [path] if path.suffix == ".parquet" else [place for place in (path, path / "data") if place.is_dir()]
    tables = next(filter(None, (split_tables(place, split, depths=("",)) for place in places)), [])
    return tables if tables and has_media(tables[0]) else []


def _read_media_tables(path: Path, tables: list[Path]) -> LabelledImages:
    """Read the hub's Parquet files: an image or a video and its label in each row; any class can be chosen."""
    rows, names = list[tuple[str, MediaSource, str]](), tuple[str, ...]()
    for table in tables:
        for where, cells, source in read_image_table(table, MEDIA_COLUMNS):
            label = find_column(cells, LABEL_COLUMNS, table, "labels")
            names = names or class_names_of(table, label)
            rows.append((f"{table.stem}/{where.rpartition(':')[2]}", source, str(id_field(cells, label, where))))
    choices = tuple(map(str, range(len(names))))
    if foreign := {label for _, _, label in rows} - set(choices) if choices else set():
        raise DataError(f"{path}: the label {min(foreign)} is not among the {len(choices)} classes of its table")
    named = dict(zip(choices, names, strict=True))
    return LabelledImages.of(escape_name(path.stem), rows, choices=choices, names=named)


def _read_list(path: Path, options: ClassOptions) -> LabelledImages:
    """Read UCF-101's lists of CLASS/FILE: "ApplyEyeMakeup" is shown as "apply eye makeup" in prompts."""
    media = MediaDirectory(options.media or path.parent)
    keys = [line.split()[0] for line in read_lines(path) if line.strip()]
    if bad := next((key for key in keys if "/" not in key), None):
        raise DataError(f"{path}: {quoted(bad)} is not CLASS/FILE")
    rows = [(key, media.find(key), key.partition("/")[0]) for key in keys]
    choices = tuple(sorted({label for _, _, label in rows}))
    named = {choice: re.sub(r"(?<=[a-z])(?=[A-Z])", " ", choice).lower() for choice in choices}
    return LabelledImages.of(escape_name(path.stem), rows, choices=choices, names=named)


def has_labels(path: Path, split: str) -> bool:
    """Return whether `load_tasks` would find this split at a path."""
    alone = path.suffix.lower() in TABLE_SUFFIXES or not any((path / name).is_dir() for name in SPLITS)
    shards = bool(find_tars(path, split)) or _has_shards(path, split) or bool(media_tables(path, split))
    return alone or shards or any(item.is_dir() for item in (path / split).glob("*"))


def _has_shards(path: Path, split: str) -> bool:
    return path.suffix == ".tar" or (split in SPLITS and bool(shards_below(path, split)))


def _read_directories(path: Path, split: str) -> LabelledImages:
    """Read images or videos from one directory per class; the labels are the directories' names."""
    root = path / split if (path / split).is_dir() else path
    directories = sorted(value for value in root.iterdir() if value.is_dir()) if root.is_dir() else []
    others = {name for names in SAME_SPLITS for name in names} & {item.name for item in directories}
    if others:
        raise DataError(f"{path} has no split {split!r}, but {', '.join(sorted(others))}; choose one with --split")
    files = [(file, directory.name) for directory in directories for file in list_media(directory)]
    if not files:
        raise DataError(
            f"{root} holds no labelled images: no {split}.tar, no {split}/*.tar, no {split}-*.parquet with images or "
            "videos in it, and no directory of them for each class"
        )
    labelled = [(escape_name(file.relative_to(root)), file, escape_name(label)) for file, label in files]
    return LabelledImages.of(escape_name(path.name), labelled)


def _read_table(path: Path, split: str, options: ClassOptions) -> LabelledImages:
    """Read an image or video per row: path and label; or Kinetics' label, youtube_id, time_start, time_end."""
    rows = read_table(path)
    label = find_column(rows[0], LABEL_COLUMNS, path, "labels")
    kinetics = "youtube_id" in rows[0]
    column = "youtube_id" if kinetics else find_column(rows[0], PATH_COLUMNS, path, "files")
    media = MediaDirectory(options.media or path.parent)
    labelled: list[tuple[str, MediaSource, str]] = []
    for index, row in rows_of_split(rows, split, path):
        where = f"{path}: row {index + 1}"
        name, value = text_field(row, column, where), str(id_field(row, label, where))
        if not value:
            raise DataError(f"{where}: `{label}` is empty")
        key, source = _kinetics_clip(row, name, where, media) if kinetics else (name, media.find(name))
        labelled.append((key, source, value))
    return LabelledImages.of(escape_name(path.stem), labelled)


def rows_of_split(rows: Iterable[Mapping[str, Any]], split: str, path: Path) -> list[tuple[int, Mapping[str, Any]]]:
    """Return the numbered rows of a split, or all without a field `split`; `val` and `validate` are the same.

    DataError, under the table's path, if no row is of the split.
    """
    names = split_names(split)
    numbered = list(enumerate(rows))
    if not any(row.get("split") for _, row in numbered):
        return numbered
    selected = [(number, row) for number, row in numbered if str(row.get("split")) in names]
    if not selected:
        splits = ", ".join(sorted({str(row.get("split")) for _, row in numbered}))
        raise DataError(f"{path}: no row has the split {split!r}; there are: {escape_name(splits)}")
    return selected


def _kinetics_clip(row: Mapping[str, Any], identity: str, where: str, media: MediaDirectory) -> tuple[str, MediaSource]:
    """Find a trimmed clip under either usual name, or the part of the whole video."""
    try:
        start, end = float(row["time_start"]), float(row["time_end"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: a row of Kinetics needs time_start and time_end in seconds") from None
    cut = [f"{identity}_{start:06.0f}_{end:06.0f}", f"{identity}_{start:.0f}_{end:.0f}"]
    file = media.find(f"{cut[0]}.mp4", *cut, identity)
    whole = file.stem == identity and file.is_file()
    return cut[0], Clip(file, start, end) if whole else file


def _with_options(task: LabelledImages, options: ClassOptions) -> LabelledImages:
    """Turn labels into class ids with names and, for another set of classes, their counterparts."""
    plain = tuple(task.names.get(label, label).replace("_", " ") for label in task.classes)
    source = read_class_names(options.classes) if options.classes else ClassNames(task.classes, plain, task.name)
    task = replace(task, labels=tuple(source.find(label) for label in task.labels))
    accepted: dict[str, frozenset[str]] = {}
    target = source
    if options.mapping is not None:
        target = read_class_names(options.onto) if options.onto else source
        mapping = read_mapping(options.mapping, target if options.onto else None)
        counterparts = {item: mapping.get(item, mapping.get(source.name(item))) for item in set(task.labels)}
        mapped = task.select([row for row, label in enumerate(task.labels) if counterparts[label]])
        if not mapped.keys:
            raise DataError(f"{options.mapping} maps none of the labels of {task.name}: {task.labels[0]!r} …")
        task = mapped
        accepted = {item: ids for item, ids in counterparts.items() if ids} if options.onto else {}
    lower = options.mapping is not None and not options.onto
    occurring = {value for ids in accepted.values() for value in ids} if accepted else set(task.labels)
    every_class = bool(task.choices) and target is source and not options.classes
    choices = tuple(entry for entry in target.ids if every_class or entry in occurring)
    names = {choice: target.name(choice).lower() if lower else target.name(choice) for choice in choices}
    return replace(task, choices=choices, names=names, accepted=accepted, trim=options.trim)
