"""Pictures and videos with captions in the usual layouts: COCO, Karpathy's splits, MSR-VTT, and plain tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from perception_encoder.data.classified import of_split
from perception_encoder.data.media_folder import MediaFolder, Source, find_column, read_json, read_table
from perception_encoder.data.tables import PATH_COLUMNS, TABLE_SUFFIXES
from perception_encoder.errors import DataError

TEXT_COLUMNS = ("sentence", "caption", "text", "captions")
VIDEO_COLUMN = "video_id"


@dataclass(frozen=True)
class CaptionedMedia:
    """Pictures or videos, and captions that each belong to one of them."""

    name: str
    keys: tuple[str, ...]
    media: tuple[Source, ...]
    captions: tuple[str, ...]
    owners: tuple[int, ...]
    """The place in `keys` of what each caption is of."""


def load_captions(path: Path, media: Path | None = None, split: str = "test") -> CaptionedMedia:
    """Read annotations; `media` is the folder of the pictures or videos, by default that of the annotations.

    JSON: COCO's `images` and `annotations`, or `images` and `captions` by image id; Karpathy's `images` with
    `sentences` (the rows of `split`); MSR-VTT's `videos` and `sentences` (likewise); or captions by file name. A table:
    MSR-VTT's `video_id` and `sentence`, or a path and a caption a row; several rows of one file are its captions.
    Raises DataError for anything else, and for a picture without a caption.
    """
    folder = MediaFolder(media or path.parent)
    if path.suffix.lower() in TABLE_SUFFIXES:
        pairs = _pairs_of_table(path, split)
    elif path.suffix.lower() == ".json":
        pairs = _pairs_of_json(path, split)
    else:
        raise DataError(
            f"{path} is no JSON file and no table; captions are read from .json, .csv, .tsv, .jsonl, .parquet"
        )
    if not pairs:
        raise DataError(f"{path} holds no captions")
    captions = [(key, str(text).strip()) for key, texts in pairs.items() for text in texts]
    bare = next((key for key in pairs if not pairs[key]), next((key for key, text in captions if not text), None))
    if bare is not None:
        raise DataError(f"{path}: {bare} has no caption, or an empty one; leave it out")
    place = {key: index for index, key in enumerate(pairs)}
    return CaptionedMedia(
        name=path.stem,
        keys=tuple(pairs),
        media=tuple(folder.find(key, Path(key).name) for key in pairs),
        captions=tuple(text for _, text in captions),
        owners=tuple(place[key] for key, _ in captions),
    )


def _pairs_of_table(path: Path, split: str) -> dict[str, list[str]]:
    rows = read_table(path)
    text = find_column(rows, TEXT_COLUMNS, path, "captions")
    column = VIDEO_COLUMN if VIDEO_COLUMN in rows[0] else find_column(rows, PATH_COLUMNS, path, "files")
    pairs: dict[str, list[str]] = {}
    for row in of_split(rows, split):
        pairs.setdefault(str(row[column]), []).append(str(row[text] or ""))
    return pairs


def _pairs_of_json(path: Path, split: str) -> dict[str, list[str]]:
    value = read_json(path)
    try:
        if isinstance(value, dict) and "videos" in value:
            return _of_msrvtt(value, split)
        if isinstance(value, dict) and "images" in value:
            images = value["images"]
            return _of_karpathy(images, split) if "sentences" in images[0] else _of_coco(value, path)
        if isinstance(value, dict):
            return {str(key): [texts] if isinstance(texts, str) else list(texts) for key, texts in value.items()}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise DataError(
            f"{path} is not laid out as captions of COCO, Karpathy's splits or MSR-VTT ({error!r})"
        ) from error
    raise DataError(f"{path} is no JSON object of captions")


def _of_coco(value: Mapping[str, Any], path: Path) -> dict[str, list[str]]:
    names = {image["id"]: str(image["file_name"]) for image in value["images"]}
    pairs: dict[str, list[str]] = {name: [] for name in names.values()}
    if "captions" in value:
        said = [(int(identity), text) for identity, texts in value["captions"].items() for text in texts]
    else:
        said = [(annotation["image_id"], annotation["caption"]) for annotation in value["annotations"]]
    for identity, text in said:
        if identity not in names:
            raise DataError(f"{path}: the caption {text!r} is of picture {identity}, which is not among the images")
        pairs[names[identity]].append(text)
    return pairs


def _of_karpathy(images: list[Mapping[str, Any]], split: str) -> dict[str, list[str]]:
    return {
        "/".join(filter(None, (image.get("filepath"), image["filename"]))): [each["raw"] for each in image["sentences"]]
        for image in of_split(images, split)
    }


def _of_msrvtt(value: Mapping[str, Any], split: str) -> dict[str, list[str]]:
    pairs: dict[str, list[str]] = {str(video["video_id"]): [] for video in of_split(value["videos"], split)}
    for sentence in value["sentences"]:
        if sentence["video_id"] in pairs:
            pairs[sentence["video_id"]].append(sentence["caption"])
    return pairs
