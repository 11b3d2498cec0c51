"""Detections: duplicates, several views of an image, files."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import binary_fill_holes

from perception_encoder.dense_prediction.dense_model import DenseModel
from perception_encoder.dense_prediction.detection.detections import (
    CocoResults,
    Detected,
    join_views,
    mirrored,
    outlines,
    read_categories,
    run_lengths,
    suppress,
)
from perception_encoder.dense_prediction.heads import Views, detect_objects
from perception_encoder.dense_prediction.predictions import (
    depth_png,
    mask_png,
    object_palette,
)
from perception_encoder.errors import ConfigError, DataError
from tests.dense_prediction.test_dense_model import HEADS, model

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "soft_nms.npz")
BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 9]])
SCORES = torch.tensor([0.9, 0.8, 0.7, 0.6])
LABELS = torch.tensor([1, 1, 1, 2])


def test_the_worse_of_two_of_one_class_is_dropped() -> None:
    rows, scores = suppress(BOXES, SCORES, LABELS, 0.7)
    assert rows.tolist() == [0, 2, 3] and scores.tolist() == pytest.approx([0.9, 0.7, 0.6])
    assert suppress(BOXES, SCORES, LABELS, 0.7, least=0.65)[0].tolist() == [0, 2]
    assert suppress(BOXES, SCORES, LABELS, 0.85)[0].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_soft_suppression_is_the_references(case: str) -> None:
    """Scores of the published detector, in float32."""
    names = ("boxes", "scores", "labels", "threshold", "quad_scale", "kept", "kept_scores")
    boxes, scores, labels, overlap, exponent, kept, expected = (GOLDEN[f"{case}/{name}"] for name in names)
    tensors = (torch.from_numpy(values) for values in (boxes, scores, labels))
    rows, lowered = suppress(*tensors, float(overlap), soft=float(exponent))
    assert rows.tolist() == kept.tolist()
    assert np.abs(lowered.numpy() - expected).max() < 1e-6


def detected(*boxes: tuple[float, ...]) -> Detected:
    count = len(boxes)
    scores = np.linspace(0.9, 0.5, count, dtype=np.float32)
    return Detected(np.array(boxes, np.float32), np.ones(count, np.int64), scores, None)


def test_views_are_joined() -> None:
    joined = join_views([detected((0, 0, 10, 10), (20, 0, 30, 10)), detected((0, 0, 10, 9))], 0.6, None)
    assert joined.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]


def test_a_mirrored_image_is_turned_back() -> None:
    assert mirrored(detected((5, 1, 20, 9)), 100).boxes.tolist() == [[80, 1, 95, 9]]
    assert mirrored(mirrored(detected((5, 1, 20, 9)), 100), 100).boxes.tolist() == [[5, 1, 20, 9]]


def test_images_and_annotations_are_numbered(tmp_path: Path) -> None:
    masks = np.zeros((2, 6, 8), bool)
    masks[0, 1:3, 2:5] = True
    boxes = np.array([[2, 1, 5, 3], [0, 0, 8, 6]], np.float32)
    detected = Detected(boxes, np.array([2, 1]), np.array([0.9, 0.25], np.float32), masks)
    results = CocoResults([{"id": 47, "name": "cup"}, {"id": 90, "name": "mug"}], {"a.png": "a.png", "7.png": "7.png"})
    results.add("a.png", (8, 6), detected)
    results.add("7.png", (8, 6), detected.above(0.5))
    results.add("c.png", (8, 6), Detected(boxes[:1], np.array([1]), np.array([0.5], np.float32), None))
    results.write(tmp_path)
    value = json.loads((tmp_path / "detections.json").read_text())
    assert [image["id"] for image in value["images"]] == [1, 2, 3]
    assert [annotation["image_id"] for annotation in value["annotations"]] == [1, 1, 2, 3]
    assert [annotation["id"] for annotation in value["annotations"]] == [1, 2, 3, 4]
    first = value["annotations"][0]
    assert first["bbox"] == [2, 1, 3, 2] and first["area"] == 6 and first["category_id"] == 90
    assert first["segmentation"] == [[5, 1, 5, 3, 2, 3, 2, 1]] and "segmentation" not in value["annotations"][1]
    plain = json.loads((tmp_path / "results.json").read_text())
    fields = {"image_id", "category_id", "bbox", "score", "segmentation"}
    assert [item["category_id"] for item in plain] == [90, 47, 90, 47] and plain[0].keys() == fields
    assert "segmentation" not in plain[3]


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "a/285.png"], [139, 285]),
        (["139.jpg", "cup.jpg"], [1, 2]),
        (["7.jpg", "a/007.jpg"], [1, 2]),
    ],
)
def test_names_that_are_distinct_numbers_are_ids(names: list[str], ids: list[int]) -> None:
    results = CocoResults([], {name: name for name in names})
    nothing = Detected(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.float32), None)
    for name in (*names, "12.mp4/00000"):
        results.add(name, (8, 6), nothing)
    assert [image["id"] for image in results.images] == [*ids, max(ids) + 1]


def test_class_names_of_annotations(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    path.write_text(json.dumps({"categories": [{"id": 9, "name": "b"}, {"id": 4, "name": "a"}]}), encoding="utf-8")
    assert read_categories(path) == [(4, "a"), (9, "b")]
    path.write_text(json.dumps({"categories": [{"id": "x", "name": "a"}]}), encoding="utf-8")
    with pytest.raises(DataError, match="`id` is 'x'; it must be an integer"):
        read_categories(path)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_pycocotools_reads_the_mask(bits: list[bool]) -> None:
    mask = np.array(bits).reshape(3, 4)
    encoded = coco_mask.frPyObjects({"size": [3, 4], "counts": run_lengths(mask)}, 3, 4)
    assert np.array_equal(coco_mask.decode(encoded), mask)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
@settings(deadline=None, max_examples=100)
@given(st.lists(st.booleans(), min_size=30, max_size=30).filter(any))
def test_pycocotools_reads_the_outlines(bits: list[bool]) -> None:
    """Parts that touch at a corner are separate; holes are filled, but not gaps that lead out over a corner."""
    mask = np.array(bits).reshape(5, 6)
    found = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outlines(mask), 5, 6)))
    assert np.array_equal(found, binary_fill_holes(mask, structure=np.ones((3, 3))))


def test_depth_is_stored_in_millimetres() -> None:
    stored = np.asarray(Image.open(io.BytesIO(depth_png(np.array([[0.0015, 2.5], [70.0, 0.0]])))))
    assert stored.tolist() == [[2, 2500], [65535, 0]]


def test_the_palette_is_pascal_vocs() -> None:
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        4: (0, 0, 128),
        5: (128, 0, 128),
        8: (64, 0, 0),
        255: (224, 224, 192),
    }
    assert {label: tuple(object_palette()[label].tolist()) for label in known} == known
    assert len(np.unique(object_palette(), axis=0)) == 256


def test_a_mask_is_read_as_its_labels() -> None:
    labels = np.arange(256).reshape(16, 16)
    image = Image.open(io.BytesIO(mask_png(labels)))
    assert image.mode == "P" and np.array_equal(np.asarray(image), labels)
    assert image.convert("RGB").getpixel((1, 0)) == (128, 0, 0)
    many = np.array([[0, 1, 300]])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask_png(many)))), many)  # 300 was 44


def detr() -> DenseModel:
    return model(task="detr", head=asdict(HEADS["detr"]), classes=("a", "b"))


IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8))


def test_every_view_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that finds the brightest column of patches, in all scales and mirrored."""
    detector, sizes = detr(), []

    def see(
        features: torch.Tensor, stored: list[tuple[int, int]], valid_sizes: None, soft: float | None, queries: None
    ) -> list[Detected]:
        sizes.append(tuple(features.shape[1:3]))
        left = 10.0 if len(sizes) % 2 else 40.0  # the second view of each scale is mirrored
        return [
            Detected(np.array([[left, 0, left + 14, 20]], np.float32), np.array([1]), np.array([0.5], np.float32), None)
        ]

    monkeypatch.setattr(detector.head, "detect", see)
    joined = detect_objects(detector, IMAGE, 64, Views(scales=(1.0, 2.0), flip=True))
    assert sizes == [(3, 4), (3, 4), (6, 8), (6, 8)]
    assert joined.boxes.tolist() == [[10, 0, 24, 20]]
    soft = detect_objects(detector, IMAGE, 64, Views(scales=(1.0, 2.0), soft=0.5))
    assert len(soft.boxes) == 2 and soft.scores[0] == 0.5


def test_the_papers_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of 1792, 1728, 1536 and 1344 px, mirrored too; small objects count at the two larger scales alone."""
    detector, seen = detr(), []

    def see(
        features: torch.Tensor, stored: list[tuple[int, int]], valid_sizes: None, soft: float, queries: int | None
    ) -> list[Detected]:
        seen.append((features.shape[2] * 16, soft, queries))
        boxes = np.array([[0, 0, 60, 60], [100, 100, 200, 170]], np.float32)
        scores = np.array([0.9, 0.1], np.float32) - 0.001 * np.float32(len(seen))
        return [Detected(boxes + 300 * len(seen), np.array([1, 1]), scores, None)]

    monkeypatch.setattr(detector.head, "detect", see)
    monkeypatch.setattr(detector, "map_of", lambda image, side: torch.zeros(1, side // 16, side // 16, 1))
    found = detect_objects(detector, IMAGE, 1792, Views.paper())
    assert seen == [(side, 0.4, 2000) for side in (1792, 1728, 1536, 1344) for _ in range(2)]
    small = found.boxes[found.scores > 0.5]
    assert len(small) == 4 and len(found.boxes) == 12
    assert detect_objects(detector, IMAGE, 1792, Views(least=(64,))).scores.max() < 0.2


def test_bad_views_and_heads() -> None:
    with pytest.raises(ConfigError, match=r"scales are \[\]; at least one is needed"):
        Views(scales=())
    with pytest.raises(ConfigError, match="a DepthHead cannot detect objects"):
        detect_objects(model(), IMAGE, 64)
