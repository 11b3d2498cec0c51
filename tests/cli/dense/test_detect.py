"""`pe detect`: drawn images, and detections in COCO's format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy.ndimage import binary_fill_holes

from perception_encoder.dense_prediction.detection.detections import Detected
from tests.conftest import Run
from tests.datasets.drawn import described
from tests.dense_prediction.published.renamed import to_detectron2, use_small_towers, vitdet


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools
def test_detections_in_cocos_format(run_pe: Callable[..., Run], detector: Path, tmp_path: Path) -> None:
    Image.fromarray(described(1)[1][0]).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    run = run_pe("detect", tmp_path / "photo.png", "--head", detector, "--score", "0.06", "-o", out, "--json")
    assert run.status == 0
    value = json.loads((out / "detections.json").read_text())
    assert json.loads(run.stdout) == value
    assert value["images"] == [{"id": 1, "file_name": "photo.png", "width": 64, "height": 48}]
    assert value["categories"] == [{"id": 4, "name": "red"}, {"id": 9, "name": "blue"}]
    assert value["annotations"] and all(annotation["score"] >= 0.06 for annotation in value["annotations"])
    for annotation in value["annotations"]:
        assert isinstance(annotation["segmentation"], list) and annotation["bbox"][2] > 0
    imported = COCO(str(out / "detections.json"))
    exact = imported.loadRes(str(out / "results.json"))
    for annotation in imported.loadAnns(imported.getAnnIds(imgIds=[1])):
        mask = exact.annToMask(exact.loadAnns([annotation["id"]])[0])
        assert mask.sum() == annotation["area"]
        assert np.array_equal(imported.annToMask(annotation), binary_fill_holes(mask, structure=np.ones((3, 3))))
    itself = COCOeval(exact, exact, "segm")
    itself.evaluate()
    itself.accumulate()
    itself.summarize()
    assert itself.stats[0] > 0.99  # as true boxes, they find themselves
    with Image.open(out / "photo.png") as drawn:
        assert drawn.size == (64, 48)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    files = tmp_path / "photo.png", tmp_path / "bad.jpg"
    run = run_pe("detect", *files, "--head", detector, "--score", "1", "-o", tmp_path / "more", "--strict")
    assert (run.status, run.stdout) == (1, "") and "1 of 2 inputs skipped" in run.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's
def test_label_studio_imports_the_detections(run_pe: Callable[..., Run], detector: Path, tmp_path: Path) -> None:
    coco = pytest.importorskip("label_studio_sdk.converter.imports.coco")
    label_interface = pytest.importorskip("label_studio_sdk.label_interface")
    Image.fromarray(described(1)[1][0]).save(tmp_path / "photo.png")
    words = ("detect", tmp_path / "photo.png", "--head", detector, "--score", "0.06", "-o", tmp_path / "out")
    assert run_pe(*words).status == 0
    found = json.loads((tmp_path / "out" / "detections.json").read_text())["annotations"]
    coco.convert_coco_to_ls(str(tmp_path / "out" / "detections.json"), str(tmp_path / "tasks.json"))
    (task,) = json.loads((tmp_path / "tasks.json").read_text())
    interface = label_interface.LabelInterface((tmp_path / "tasks.label_config.xml").read_text())
    assert interface.validate_annotation(task["annotations"][0])
    kinds = [part["type"] for part in task["annotations"][0]["result"]]
    assert kinds.count("rectanglelabels") == len(found) <= kinds.count("polygonlabels")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # FiftyOne's
def test_fiftyone_imports_the_detections(run_pe: Callable[..., Run], detector: Path, tmp_path: Path) -> None:
    """Its importer of COCO's format; this part of FiftyOne needs no database."""
    coco = pytest.importorskip("fiftyone.utils.coco")
    (tmp_path / "photos").mkdir()
    Image.fromarray(described(1)[1][0]).save(tmp_path / "photos" / "photo.png")
    words = ("detect", tmp_path / "photos", "--head", detector, "--score", "0.06", "-o", tmp_path / "out")
    assert run_pe(*words).status == 0
    labels = tmp_path / "out" / "detections.json"
    annotations = json.loads(labels.read_text())["annotations"]
    kinds = ["segmentations"]
    with coco.COCODetectionDatasetImporter(
        data_path=str(tmp_path / "photos"), labels_path=str(labels), label_types=kinds
    ) as importer:
        ((path, metadata, found),) = importer
    assert path == str(tmp_path / "photos" / "photo.png") and (metadata.width, metadata.height) == (64, 48)
    assert len(found.detections) == len(annotations) and {item.label for item in found.detections} <= {"red", "blue"}
    for item, annotation in zip(found.detections, annotations, strict=True):
        assert item.confidence == annotation["score"] and item.mask.any()
        left, top, wide, high = item.bounding_box
        assert [left * 64, top * 48, wide * 64, high * 48] == pytest.approx(annotation["bbox"])


def test_perfect_boxes_score_perfectly_in_pycocotools(
    run_pe: Callable[..., Run], detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Categories 4 and 9 were renumbered to 1 and 2, and images had no ids: AP 0, and 14.4 for COCO's 80 classes."""
    content, images = described(4)
    for record, pixels in zip(content["images"], images, strict=True):
        number = 100 + record["id"]
        record |= {"id": number, "file_name": f"{'ab'[number % 2]}/{number:06d}.png"}
        (tmp_path / "images" / record["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / record["file_name"])
    for annotation in content["annotations"]:
        annotation["image_id"] += 100
    (tmp_path / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    shown = {np.asarray(pixels).tobytes(): number for number, pixels in enumerate(images)}

    def detect(model: object, image: Image.Image, *rest: object) -> Detected:
        boxes = [
            annotation
            for annotation in content["annotations"]
            if annotation["image_id"] == 101 + shown[np.asarray(image).tobytes()]
        ]
        corners = np.array([box["bbox"] for box in boxes], np.float32)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([{4: 1, 9: 2}[box["category_id"]] for box in boxes])
        return Detected(corners, labels, np.full(len(boxes), 0.9, np.float32), None)

    monkeypatch.setattr("perception_encoder.dense_prediction.heads.detect_objects", detect)
    words = ("detect", tmp_path / "images", "--head", detector, "-o", tmp_path / "out")
    assert run_pe(*words).status == 0
    truth = COCO(str(tmp_path / "coco.json"))
    scored = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == 1
    value = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = sorted(item["file_name"] for item in value["images"])
    assert names == ["a/000102.png", "a/000104.png", "b/000101.png", "b/000103.png"]
    assert all((tmp_path / "images" / name).is_file() and (tmp_path / "out" / name).is_file() for name in names)


def test_a_published_detector(run_pe: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It brings its encoder; the names of its classes are COCO's, or given."""
    use_small_towers(monkeypatch)
    torch.save({"model": to_detectron2(vitdet())}, tmp_path / "mask_rcnn.pth")
    Image.fromarray(described(1)[1][0]).save(tmp_path / "photo.png")
    said, _ = described(1)
    names = [{"id": 9 - number, "name": name} for number, name in enumerate("edcba")]
    (tmp_path / "lvis.json").write_text(json.dumps({**said, "categories": names}), encoding="utf-8")

    def detect(*rest: object) -> Run:
        words = ("detect", tmp_path / "photo.png", "--head", tmp_path / "mask_rcnn.pth", "-o", tmp_path / "out")
        return run_pe(*words, "--score", 0.1, *rest)

    run = detect("--json")
    assert run.status == 0, run
    value = json.loads(run.stdout)
    assert value["categories"] == [{"id": number, "name": str(number)} for number in range(1, 6)]
    assert value["annotations"] and isinstance(value["annotations"][0]["segmentation"], list)
    run = detect("--classes", tmp_path / "lvis.json")
    assert run.status == 0 and {line.split("\t")[1] for line in run.stdout.splitlines()} <= set("abcde")
    value = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert value["categories"] == [{"id": 5 + number, "name": name} for number, name in enumerate("abcde")]
    run = detect("-m", "builtin")
    assert run.status == 2 and "includes its encoder; omit the model" in run.stderr


def test_other_files_are_refused(run_pe: Callable[..., Run], detector: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "photo.png")
    torch.save({"a": torch.ones(1)}, tmp_path / "other.pth")
    run = run_pe("detect", tmp_path / "photo.png", "--head", tmp_path / "other.pth", "-o", tmp_path / "out")
    assert run.status == 2 and "is neither a detector written by `pe train` nor one in" in run.stderr
    words = ("detect", tmp_path / "photo.png", "--head", detector, "-o", tmp_path / "out")
    run = run_pe(*words, "--classes", tmp_path / "coco.json")
    assert run.status == 2 and "has its own class names; omit classes" in run.stderr
    run = run_pe(*words, "-m", "random:builtin")
    assert run.status == 2 and "belongs to PE-Core-N16-128, layer 11, with weights" in run.stderr


def test_the_built_in_detector(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    scene = Image.new("RGB", (224, 224), (150, 140, 130))
    scene.paste((200, 20, 20), (70, 90, 140, 170))
    scene.save(tmp_path / "scene.png")
    run = run_pe("detect", tmp_path / "scene.png", "-o", tmp_path / "out", "--json")
    assert run.status == 0, run.stderr
    value = json.loads(run.stdout)
    assert value["categories"] == [{"id": 1, "name": "object"}]
    left, top, width, height = max(value["annotations"], key=lambda item: item["score"])["bbox"]
    assert abs(left + width / 2 - 105) < 20 and abs(top + height / 2 - 130) < 20
