"""A small file of every kind of annotation that is read, and how it is read (`tests/test_damaged_files.py`)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.datasets.captioned import load_captions
from perception_encoder.datasets.class_masks import read_class_splits
from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.instances import read_instance_splits, read_instances
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.questions.read import read_questions
from perception_encoder.formats.shards import write_members
from perception_encoder.formats.tables import read_rows
from tests.data.tars import image_bytes, write_file
from tests.datasets.questions.layouts import LAYOUTS
from tests.datasets.test_captioned import BY_ID, COCO, KARPATHY, MSRVTT, PATHS, TABLE
from tests.evaluation.layers import png

Read = Callable[[Path], object]
"""Read all that a directory holds, and use it."""


def captions(name: str) -> Read:
    return lambda directory: load_captions(directory / name)


def instances(directory: Path) -> None:
    for part in (read_instances(directory / "annotations.json", directory), *read_instance_splits(directory)):
        for place in range(len(part.keys)):
            part.instances(place)
        part.truth(range(len(part.keys)))


def masks(directory: Path) -> None:
    for part in read_class_splits(directory):
        for place in range(len(part.keys)):
            part.labels(place)


def tables(name: str, classes: str = "", mapping: str = "") -> Read:
    def read(directory: Path) -> None:
        options = ClassOptions(
            classes=str(directory / classes) if classes else "", mapping=directory / mapping if mapping else None
        )
        for task in load_tasks(directory / name if name else directory, "val", options).values():
            assert all(isinstance(label, str) for label in task.labels)

    return read


def rows(name: str) -> Read:
    """Of files that are embedded: a bad row is an error in its place."""
    return lambda directory: list(read_rows(directory / name))


MASKS = (
    [[1, 1, 5, 1, 5, 4, 1, 4]],
    {"size": [6, 8], "counts": [6, 4, 38]},
    {"size": [6, 8], "counts": "64V1"},
    [[0, 0, 8, 0, 8, 6]],
)
INSTANCES = {
    "images": [
        {"id": n, "file_name": f"{n}.jpg", "width": 8, "height": 6, "neg_category_ids": [4]} for n in range(1, 5)
    ],
    "categories": [{"id": 4, "name": "red"}],
    "annotations": [
        {"id": n, "image_id": n, "category_id": 4, "bbox": [1, 1, 4, 3], "area": 12, "iscrowd": 0, "segmentation": mask}
        for n, mask in enumerate(MASKS, 1)
    ],
}
KINETICS = [{"label": "a b", "youtube_id": "AAA", "time_start": 7, "time_end": 17, "split": "val"}] * 2
LABELLED = [{"path": "a.jpg", "label": "cat", "split": "val"}, {"path": "b.jpg", "label": 3, "split": "val"}]
ROWS = [{"path": "a.jpg", "start": 1, "end": 2.5, "id": "a"}, {"text": "a cat", "id": 7}]

JSON: dict[str, tuple[str, Any, Read]] = {
    "COCO": ("a.json", COCO, captions("a.json")),
    "captions by id": ("a.json", BY_ID, captions("a.json")),
    "Karpathy": ("a.json", KARPATHY, captions("a.json")),
    "MSR-VTT": ("a.json", MSRVTT, captions("a.json")),
    "captions by name": ("a.json", {"a.jpg": ["a cat", "a dog"], "b.jpg": "a cow"}, captions("a.json")),
    "captions in lines": ("a.jsonl", [{"path": "a.jpg", "text": "a cat"}] * 2, captions("a.jsonl")),
    "instances": ("annotations.json", INSTANCES, instances),
    "labelled shards": ("val.json", {"source": "toys", "label": "cat", "coarse": "pet"}, tables("")),
    "labels in lines": ("a.jsonl", LABELLED, tables("a.jsonl")),
    "Kinetics in lines": ("a.jsonl", KINETICS, tables("a.jsonl")),
    "class names": ("names.json", {"cat": "Cat", "dog": "Dog"}, tables("", "names.json")),
    "class index": ("names.json", {"0": ["cat", "Cat"], "1": ["dog", "Dog"]}, tables("", "names.json")),
    "class list": ("names.json", ["cat", "dog"], tables("", "names.json")),
    "mapping": ("map.json", {"cat": "0; 1", "dog": "x"}, tables("", mapping="map.json")),
    "rows to embed": ("a.jsonl", ROWS, rows("a.jsonl")),
}
LAYOUT_OF: dict[str, str] = {"coco_pope_random.jsonl": "pope"}
"""The dataset of questions that a file is of."""


def questions(name: str, split: str = "") -> Read:
    return lambda directory: read_questions(name, directory, split)


def add_questions() -> None:
    """Add every JSON file of every dataset of questions."""
    rows = [{"question_id": 1, "image": "a.jpg", "text": "Is it?", "label": "yes"}]
    JSON["POPE in lines"] = ("coco_pope_random.jsonl", rows, questions("pope", "random"))
    for name, write in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as made:
            write(Path(made))
            for path in sorted(Path(made).rglob("*.json")) if name != "pope" else ():
                file = path.relative_to(made).as_posix()
                LAYOUT_OF[file] = name
                JSON[f"{name}: {path.name}"] = (file, json.loads(path.read_bytes()), questions(name))


add_questions()

TEXT: dict[str, tuple[str, str, Read]] = {
    "MSR-VTT": ("a.csv", TABLE, captions("a.csv")),
    "captions": ("a.csv", PATHS, captions("a.csv")),
    "labels": ("a.csv", "path,label\na.jpg,cat\nb.jpg,dog\n", tables("a.csv")),
    "Kinetics": ("a.csv", "label,youtube_id,time_start,time_end,split\na b,AAA,7,17,val\n", tables("a.csv")),
    "class names": ("names.txt", "cat\tCat\ndog\tDog\n", tables("", "names.txt")),
    "synsets": ("names.txt", "n01440764 tench, Tinca tinca\ncat\ndog\n", tables("", "names.txt")),
    "ADE20K": ("objectInfo150.txt", "Idx\tName\n1\twall\n2\tsky, heaven\n", masks),
    "DAVIS": ("ImageSets/2017/val.txt", "bear\ndog\n", read_videos),
    "rows to embed": ("a.csv", "path,start\na.jpg,1\nb.jpg,2\n", rows("a.csv")),
}


def prepare(directory: Path, name: str, content: bytes) -> None:
    """Write a file, and all that its reader needs beside it."""
    if name in LAYOUT_OF and LAYOUT_OF[name] != "pope":
        LAYOUTS[LAYOUT_OF[name]](directory)
    for number in range(1, 5) if name == "annotations.json" else ():
        (directory / f"{number}.jpg").write_bytes(image_bytes(1))
    for item in ("cat/1.jpg", "dog/2.jpg") if name.startswith(("names", "map")) else ():
        write_file(directory / item, image_bytes(1))
    if name == "val.json":
        write_members(directory / "val.tar", [("a.png", image_bytes(1)), ("a.json", content)])
        return
    for split in ("training", "validation") if name == "objectInfo150.txt" else ():
        for kind, pixels in (("images", image_bytes(1)), ("annotations", png(np.full((2, 2), 2, np.uint8)))):
            write_file(directory / kind / split / ("a.jpg" if kind == "images" else "a.png"), pixels)
    for video in ("bear", "dog") if name.endswith("val.txt") else ():
        for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            for number in range(2):
                write_file(directory / kind / "480p" / video / f"{number:05}.{suffix}", image_bytes(1))
    write_file(directory / name, content)


def encoded(name: str, value: Any) -> bytes:
    lines = [json.dumps(item) for item in value] if name.endswith(".jsonl") else [json.dumps(value)]
    return "\n".join(lines).encode()
