"""Datasets drawn for tests: rooms with depth, rectangles with classes, and rectangles with boxes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from perception_encoder.datasets.class_masks import UNSCORED, ClassMasks
from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.formats.shards import write_members
from tests.data.tars import write_file
from tests.evaluation.layers import png


def stored(metres: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((metres * 1000).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def rooms(count: int, seed: int) -> np.ndarray:
    """Depths (n, 24, 32) of a back wall and a box before it, in metres."""
    rng = np.random.default_rng(seed)
    depths = np.repeat(rng.uniform(3, 6, (count, 1, 1)), 24, axis=1).repeat(32, axis=2)
    for depth in depths:
        top, left = 4 * rng.integers(0, 4), 4 * rng.integers(0, 5)
        depth[top : top + 8, left : left + 12] = rng.uniform(1, 2.5)
    return depths.astype(np.float32)


def pairs(name: str, depths: np.ndarray) -> DepthImages:
    """Depths in metres with images that are darker where it is near."""
    greys = [np.repeat((40 * depth).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2) for depth in depths]
    keys = tuple(f"{name}{row}" for row in range(len(depths)))
    samples, held = tuple(map(png, greys)), tuple(map(stored, depths))
    return DepthImages(name=name, keys=keys, images=samples, depths=held, blocks=keys)


def described(images: int, masks: bool = True, seed: int = 0) -> tuple[dict[str, Any], list[np.ndarray]]:
    """COCO's json of images (48, 64) with a red or blue rectangle or two, and the images."""
    rng = np.random.default_rng(seed)
    said: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 4, "name": "red"}, {"id": 9, "name": "blue"}],
    }
    samples = []
    for number in range(1, images + 1):
        image_bytes = np.full((48, 64, 3), 90, np.uint8)
        said["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48})
        for half in range(1 + number % 2):
            top, left = int(rng.integers(0, 20)), int(rng.integers(0, 10)) + 32 * half
            height, width = int(rng.integers(14, 28)), int(rng.integers(12, 22))
            category = int(rng.choice([4, 9]))
            image_bytes[top : top + height, left : left + width] = (220, 30, 30) if category == 4 else (30, 30, 220)
            right, low = left + width, top + height
            outline = [[left, top, right, top, right, low, left, low]]
            box = [left, top, width, height]
            annotation = {"id": len(said["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box}
            said["annotations"].append(
                annotation | {"area": width * height, "iscrowd": 0} | ({"segmentation": outline} if masks else {})
            )
        samples.append(image_bytes)
    return said, samples


def write_instances(place: Path, counts: dict[str, int], masks: bool = True) -> Path:
    for seed, (split, count) in enumerate(counts.items()):
        said, samples = described(count, masks, seed)
        write_members(place / split / "00000.tar", [(f"{n}.jpg", png(p)) for n, p in enumerate(samples, start=1)])
        (place / split / "instances.json").write_text(json.dumps(said), encoding="utf-8")
    return place


def write_yolo(place: Path, counts: dict[str, int], masks: bool = True) -> Path:
    """Write what `write_instances` does as annotation tools export it for YOLO; return data.yaml."""
    for seed, (split, count) in enumerate(counts.items()):
        said, samples = described(count, masks, seed)
        for directory in ("images", "labels"):
            (place / directory / split).mkdir(parents=True, exist_ok=True)
        lines: dict[int, list[str]] = {record["id"]: [] for record in said["images"]}
        for item in said["annotations"]:
            left, top, width, height = item["bbox"]
            shares = [(left + width / 2) / 64, (top + height / 2) / 48, width / 64, height / 48]
            if masks:
                shares = [value / side for value, side in zip(item["segmentation"][0], [64, 48] * 4, strict=True)]
            words = [str([4, 9].index(item["category_id"])), *(f"{share:.6f}" for share in shares)]
            lines[item["image_id"]].append(" ".join(words))
        for number, pixels in enumerate(samples, start=1):
            (place / "images" / split / f"{number}.png").write_bytes(png(pixels))
            (place / "labels" / split / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines[number]))
    splits = "".join(f"{split}: images/{split}\n" for split in counts)
    (place / "data.yaml").write_text(f"path: /elsewhere/dataset\n{splits}nc: 2\nnames:\n  0: red\n  1: blue\n")
    return place / "data.yaml"


def write_whole(place: Path, content: Any, count: int = 3) -> Path:
    """Write annotations.json, and `count` images of those that `described` makes; return the annotations' path."""
    for number, pixels in enumerate(described(count)[1], start=1):
        (place / f"{number}.jpg").write_bytes(png(pixels))
    (place / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    return place / "annotations.json"


def objects365(count: int, seed: int) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Objects365's annotations of `count` images, without masks, and the images by their name in the annotations."""
    content, samples = described(count, masks=False, seed=seed)
    images = {}
    for number, (record, pixels) in enumerate(zip(content["images"], samples, strict=True)):
        version, patch = (1, 8) if number % 2 else (2, 16)
        name = f"images/v{version}/patch{patch}/objects365_v{version}_{seed:04d}{number:04d}.jpg"
        record |= {"file_name": name, "license": 5, "url": ""}
        images[name] = png(pixels)
    for item in content["annotations"]:
        item |= {"isfake": 0, "isreflected": 0}
    return content, images


def write_objects365(place: Path, counts: dict[str, int], directory: str = "{split}", parts: int = 2) -> Path:
    """Write Objects365's layout; `parts`: of an image's name in the annotations, this many last ones are its path."""
    (place / "annotations").mkdir(parents=True, exist_ok=True)
    for seed, (split, count) in enumerate(counts.items()):
        content, images = objects365(count, seed)
        (place / "annotations" / f"zhiyuan_objv2_{split}.json").write_text(json.dumps(content), encoding="utf-8")
        for name, image in images.items():
            path = place / directory.format(split=split) / "/".join(name.split("/")[-parts:])
            write_file(path, image)
    return place


def label_maps(count: int, seed: int) -> list[np.ndarray]:
    """Labels (24, 32) of a floor, a rectangle of class 1 and one of class 2, along the grid of patches of 4."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        labels = np.zeros((24, 32), np.int16)
        for number in (1, 2):
            top, left = 4 * rng.integers(0, 4), 4 * rng.integers(0, 5)
            labels[top : top + 8, left : left + 12] = number
        made.append(labels)
    return made


def write_masks(place: Path, split: str, count: int, seed: int, cut: int | None = None) -> None:
    """Write a split of images with masks; the image number `cut` is damaged."""
    colours = np.array([(90, 95, 90), (220, 40, 30), (30, 40, 220)], np.uint8)
    for directory in ("images", "masks"):
        (place / split / directory).mkdir(parents=True)
    (place / "classes.txt").write_text("background\nchair\nlamp\n", encoding="utf-8")
    for index, labels in enumerate(label_maps(count, seed)):
        image = b"\x89PNG cut" if index == cut else png(colours[labels])
        (place / split / "images" / f"{split}-{index}.png").write_bytes(image)
        (place / split / "masks" / f"{split}-{index}.png").write_bytes(png(labels.astype(np.uint8)))


def drawn_masks(name: str, shown: list[np.ndarray], known: list[np.ndarray] | None = None) -> ClassMasks:
    """Images of labels, and masks that show them, or others."""
    colours = np.array([(90, 95, 90), (220, 40, 30), (30, 40, 220)], np.uint8)
    return ClassMasks(
        name=name,
        keys=tuple(f"{name}{row}" for row in range(len(shown))),
        images=tuple(png(colours[labels]) for labels in shown),
        masks=tuple(png(labels.astype(np.uint8)) for labels in known or shown),
        classes=("background", "chair", "lamp"),
        numbers={0: 0, 1: 1, 2: 2, 255: UNSCORED},
    )
