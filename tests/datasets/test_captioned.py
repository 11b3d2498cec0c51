"""Captions in the usual layouts, and the same five images of COCO read from several of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.errors import DataError


def write(directory: Path, name: str, content: object) -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


COCO = {
    "images": [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}],
    "annotations": [
        {"image_id": 3, "caption": "a cat "},
        {"image_id": 7, "caption": "a dog"},
        {"image_id": 3, "caption": "a black cat"},
    ],
}
BY_ID = {"images": COCO["images"], "captions": {"7": ["a dog"], "3": ["a cat", "a black cat"]}}
KARPATHY = {
    "images": [
        {"filename": "b.jpg", "split": "test", "sentences": [{"raw": "a dog"}]},
        {"filename": "c.jpg", "split": "train", "sentences": [{"raw": "a cow"}]},
        {"filename": "a.jpg", "split": "test", "sentences": [{"raw": "a cat"}, {"raw": "a black cat"}]},
    ]
}
MSRVTT = {
    "videos": [
        {"video_id": "b", "split": "test"},
        {"video_id": "c", "split": "train"},
        {"video_id": "a", "split": "test"},
    ],
    "sentences": [
        {"video_id": "b", "caption": "a dog"},
        {"video_id": "a", "caption": "a cat"},
        {"video_id": "c", "caption": "a cow"},
        {"video_id": "a", "caption": "a black cat"},
    ],
}
TABLE = "key,vid_key,video_id,sentence\nret0,msr,b,a dog\nret1,msr,a,a cat\nret2,msr,a,a black cat\n"
PATHS = "image,caption\nb.jpg,a dog\na.jpg,a cat\na.jpg,a black cat\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("coco.json", COCO),
        ("ids.json", BY_ID),
        ("karpathy.json", KARPATHY),
        ("msrvtt.json", MSRVTT),
        ("msrvtt.csv", TABLE),
        ("paths.csv", PATHS),
        ("names.json", {"b.jpg": "a dog", "a.jpg": ["a cat", "a black cat"]}),
    ],
)
def test_every_layout_says_the_same(tmp_path: Path, name: str, content: object) -> None:
    (tmp_path / "media").mkdir()
    for file in ("a.jpg", "b.jpg"):
        (tmp_path / "media" / file).write_bytes(b"-")
    data = load_captions(write(tmp_path, name, content), tmp_path / "media")
    assert [Path(key).stem for key in data.keys] == ["b", "a"]
    assert data.media == (tmp_path / "media/b.jpg", tmp_path / "media/a.jpg")
    assert [sorted(texts) for texts in data.captions] == [["a dog"], ["a black cat", "a cat"]]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", {"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}, "a.jpg has no caption"),
        ("a.json", {"images": [{"id": 1}], "annotations": []}, r"a\.json: images\[0\]: `file_name` is missing"),
        ("a.json", {"images": [{"id": 1, "file_name": 5}]}, r"a\.json: images\[0\]: `file_name` is 5; it must be a"),
        ("a.json", {"images": 3}, "`images` is 3; it must be a list of objects"),
        ("a.json", {"images": [{"id": [1], "file_name": "a.jpg"}]}, r"images\[0\]: `id` is \[1\]; it must be an int"),
        ("a.json", {"images": COCO["images"], "annotations": [[3]]}, r"annotations\[0\] is \[3\]; it must be"),
        (
            "a.json",
            {"images": COCO["images"], "annotations": [COCO["annotations"][0], {"image_id": 3, "caption": None}]},
            r"a\.json: annotations\[1\]: `caption` is missing or null",
        ),
        ("a.json", {"images": COCO["images"], "captions": {"x": ["a"]}}, r"b\.jpg has no caption or an empty one"),
        ("a.json", {"images": [{"filename": "a.jpg", "sentences": 5}]}, r"images\[0\]: `sentences` is 5; it must be a"),
        ("a.json", {"a.jpg": [1, 2]}, r"a\.json: a\.jpg is \[1, 2\]; it must be a list of strings"),
        ("a.jsonl", '{"path": "a.jpg", "text": "a cat"}\n{"text": "a dog"}', "row 2: `path` is missing or null"),
        ("a.jsonl", '{"path": "a.jpg", "text": 7}', "row 1: `text` is 7; it must be a string"),
        ("a.json", {}, "holds no captions"),
        ("a.json", "[" * 100_000, r"a\.json cannot be read as JSON"),
        ("a.json", {"images": COCO["images"], "annotations": [{"image_id": 9, "caption": "x"}]}, "belongs to image 9"),
        ("a.json", [1], "is not a JSON object of captions"),
        ("a.csv", "path,label\na.jpg,cat\n", "has no column 'text' or 'caption'"),
        ("a.csv", "path,caption\na.jpg,\n", "a.jpg has no caption or an empty one"),
        ("a.txt", "a cat", "not a JSON file, a table or a tar"),
    ],
)
def test_what_lacks_captions_is_named(tmp_path: Path, name: str, content: object, said: str) -> None:
    with pytest.raises(DataError, match=said):
        load_captions(write(tmp_path, name, content))


def test_a_media_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none is not a directory"):
        load_captions(write(tmp_path, "coco.json", COCO), tmp_path / "none")


def test_real_photographs_have_their_captions(real_data: Path) -> None:
    data = load_captions(real_data / "coco" / "annotations.json")
    assert (len(data.keys), sum(map(len, data.captions))) == (85, 425)
    assert data.captions[0][0].startswith("A big burly grizzly bear")
    assert all(isinstance(path, Path) and path.is_file() for path in data.media)
