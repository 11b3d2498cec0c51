"""Read captioned images and videos in the usual layouts: COCO, Karpathy's splits, MSR-VTT, tables and tars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from perception_encoder.datasets.classified import media_tables, rows_of_split
from perception_encoder.datasets.labelled import ItemSet
from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.errors import DataError
from perception_encoder.formats.entries import id_field, list_objects, quoted, read_json, text_field, text_list
from perception_encoder.formats.media_directory import MediaDirectory, MediaSource
from perception_encoder.formats.shards import find_tars, has_members, read_shard_pairs
from perception_encoder.formats.tables import (
    MEDIA_COLUMNS,
    PATH_COLUMNS,
    TEXT_COLUMNS,
    find_column,
    read_image_table,
    read_table,
)
from perception_encoder.preprocess.source import SHARD_VIDEOS, TABLE_SUFFIXES, escape_name

VIDEO_COLUMN = "video_id"


@dataclass(frozen=True)
class CaptionedMedia(ItemSet):
    """Images or videos with captions."""

    _per_item: ClassVar[tuple[str, ...]] = ("keys", "media", "captions")

    name: str
    keys: tuple[str, ...]
    media: tuple[MediaSource, ...]
    captions: tuple[tuple[str, ...], ...]
    """One or more of each item."""


def load_captions(path: Path, media: Path | None = None, split: str = "test") -> CaptionedMedia:
    """Read annotations; `media` is the directory of the images or videos, by default the annotations' directory.

    JSON: COCO's `images` and `annotations`, or `images` and `captions` by image id; Karpathy's `images` with
    `sentences`, or MSR-VTT's `videos` and `sentences` (of `split`); or captions by file name; or a list of rows like a
    table's. A table: MSR-VTT's `video_id` and `sentence`, or a path and a caption, or several, per row; a file may have
    several rows. A directory with the hub's SPLIT-*.parquet, which hold the images or videos. Tars of images with
    KEY.txt, one caption per line (CLIP_benchmark's), or of videos with a refined caption in KEY.json (see
    `load_benchmark`): one, or a directory of them. Raises DataError for anything else, with the file and the entry,
    and for an item without a caption.
    """
    suffix = path.suffix.lower()
    if tables := media_tables(path, split):
        return _captioned(escape_name(path.stem), path, _rows_with_media(tables))
    if path.is_dir() or suffix == ".tar":
        if has_members(path, split, *SHARD_VIDEOS):
            return load_benchmark(path, split)
        tars = find_tars(path, split)
        if not tars:
            raise DataError(f"{path} is a directory without {split}.tar, {split}/*.tar or *.tar; give a captions file")
        lines = ((key, image, text.decode("utf-8", "replace")) for key, image, text in read_shard_pairs(tars, "txt"))
        name = path.stem if path.is_file() else path.name
        return _captioned(
            name, path, ((key, image, list(filter(str.strip, text.splitlines()))) for key, image, text in lines)
        )
    directory = MediaDirectory(media or path.parent)
    if suffix in TABLE_SUFFIXES:
        pairs = _pairs_of_rows(read_table(path), path, split)
    elif suffix == ".json":
        pairs = _pairs_of_json(path, split)
    else:
        suffixes = ".json, .csv, .tsv, .jsonl, .parquet, .tar"
        raise DataError(f"{path} is not a JSON file, a table or a tar; captions are read from {suffixes}")
    items = ((key, directory.find(key, Path(key).name), texts) for key, texts in pairs.items())
    return _captioned(escape_name(path.stem), path, items)


def load_benchmark(path: Path, split: str = "test") -> CaptionedMedia:
    """Return the videos of a split that have a refined caption, with this caption: of `test`, PVD-Bench (section 2.3).

    Raises DataError if fewer than two have one.
    """
    records = [record for record in read_videos_of(path, split) if record.refined_caption]
    if len(records) < 2:
        raise DataError(
            f"{path}: {len(records)} videos of {split} have a refined caption; retrieval needs at least two"
        )
    items = ((record.key, record.video, [record.refined_caption]) for record in records)
    return _captioned(f"{path.name} {split}", path, items)


def _captioned(name: str, path: Path, items: Iterable[tuple[str, MediaSource, list[str]]]) -> CaptionedMedia:
    """Return items with their captions; DataError if there are none, or if one has no caption or an empty one."""
    rows = [(key, source, tuple(text.strip() for text in texts)) for key, source, texts in items]
    for key, _, texts in rows:
        if not all(texts) or not texts:
            raise DataError(f"{path}: {escape_name(key)} has no caption or an empty one; remove it or add a caption")
    if not rows:
        raise DataError(f"{path} holds no captions")
    return CaptionedMedia(name, *zip(*rows, strict=True))


def _rows_with_media(tables: list[Path]) -> Iterator[tuple[str, MediaSource, list[str]]]:
    for table in tables:
        for where, cells, source in read_image_table(table, MEDIA_COLUMNS):
            text = find_column(cells, TEXT_COLUMNS, table, "captions")
            yield f"{table.stem}/{where.rpartition(':')[2]}", source, _captions_of(cells, text, where)


def _captions_of(row: Mapping[str, Any], column: str, where: str) -> list[str]:
    """Return a row's caption or list of captions, none if it is missing; DataError for anything else."""
    value = row.get(column)
    if value is None or isinstance(value, str):
        return [value or ""]
    if not isinstance(value, list):
        raise DataError(f"{where}: `{column}` is {quoted(value)}; it must be a string")
    return text_list(value, f"{where}: `{column}`")


def _pairs_of_rows(rows: Sequence[dict[str, Any]], path: Path, split: str) -> dict[str, list[str]]:
    text = find_column(rows[0], TEXT_COLUMNS, path, "captions")
    column = VIDEO_COLUMN if VIDEO_COLUMN in rows[0] else find_column(rows[0], PATH_COLUMNS, path, "files")
    pairs: dict[str, list[str]] = {}
    for number, row in rows_of_split(rows, split, path):
        where = f"{path}: row {number + 1}"
        pairs.setdefault(text_field(row, column, where), []).extend(_captions_of(row, text, where))
    return pairs


def _pairs_of_json(path: Path, split: str) -> dict[str, list[str]]:
    value = read_json(path)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return _pairs_of_rows(list_objects({"rows": value}, "rows", path), path, split)
    if not isinstance(value, dict):
        raise DataError(f"{path} is not a JSON object of captions")
    if "videos" in value:
        return _of_msrvtt(value, path, split)
    if "images" not in value:
        return {
            name: [texts] if isinstance(texts, str) else text_list(texts, f"{path}: {name}")
            for name, texts in value.items()
        }
    images = list_objects(value, "images", path)
    return _of_karpathy(images, path, split) if images and "sentences" in images[0] else _of_coco(value, images, path)


def _of_coco(value: Mapping[str, Any], images: list[dict[str, Any]], path: Path) -> dict[str, list[str]]:
    names: dict[str, str] = {}
    for number, image in enumerate(images):
        where = f"{path}: images[{number}]"
        names[str(id_field(image, "id", where))] = text_field(image, "file_name", where)
    pairs: dict[str, list[str]] = {name: [] for name in names.values()}
    if isinstance(value.get("captions"), dict):
        return {name: text_list(value["captions"].get(key, []), f"{path}: {name}") for key, name in names.items()}
    for number, annotation in enumerate(list_objects(value, "annotations", path)):
        where = f"{path}: annotations[{number}]"
        identity, text = str(id_field(annotation, "image_id", where)), text_field(annotation, "caption", where)
        if identity not in names:
            raise DataError(f"{where}: the caption {text!r} belongs to image {identity}, which is missing")
        pairs[names[identity]].append(text)
    return pairs


def _of_karpathy(images: list[dict[str, Any]], path: Path, split: str) -> dict[str, list[str]]:
    pairs = {}
    for number, image in rows_of_split(images, split, path):
        where = f"{path}: images[{number}]"
        directory = text_field(image, "filepath", where) if image.get("filepath") else None
        sentences = list_objects(image, "sentences", where)
        name = "/".join(filter(None, (directory, text_field(image, "filename", where))))
        pairs[name] = [text_field(item, "raw", f"{where}: sentences[{n}]") for n, item in enumerate(sentences)]
    return pairs


def _of_msrvtt(value: Mapping[str, Any], path: Path, split: str) -> dict[str, list[str]]:
    videos = list_objects(value, "videos", path)
    pairs: dict[str, list[str]] = {
        text_field(video, VIDEO_COLUMN, f"{path}: videos[{number}]"): []
        for number, video in rows_of_split(videos, split, path)
    }
    for number, sentence in enumerate(list_objects(value, "sentences", path)):
        where = f"{path}: sentences[{number}]"
        name = text_field(sentence, VIDEO_COLUMN, where)
        if name in pairs:
            pairs[name].append(text_field(sentence, "caption", where))
    return pairs
