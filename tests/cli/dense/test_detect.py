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

import perception_encoder as pe
from perception_encoder.dense_prediction.detection.detections import Detected
from perception_encoder.preprocess.video_file import write_video
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
    (image,) = json.loads(run.stdout)["images"]
    assert [(item["class_id"], item["bbox"]) for item in image["objects"]] == [
        (annotation["category_id"], annotation["bbox"]) for annotation in value["annotations"]
    ]
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


@pytest.mark.parametrize("named", [False, True])
def test_perfect_boxes_score_perfectly_in_pycocotools(
    run_pe: Callable[..., Run], detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    """Ids are those of the annotations: by COCO's names, which are numbers, or by `--images`, for classes too."""
    content, images = described(4)
    content["images"].reverse()  # so that the order of the names is not that of the ids
    for record, pixels in zip(content["images"], images[::-1], strict=True):
        number = 100 + record["id"]
        name = f"{'ab'[number % 2]}/{'cup' if named else f'{number:06d}'}.png"
        name = f"{number % 3}/{name}" if named else name
        record |= {"id": number, "file_name": name}
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    ids = {4: 30, 9: 20} if named else {4: 4, 9: 9}
    for annotation in content["annotations"]:
        annotation |= {"image_id": annotation["image_id"] + 100, "category_id": ids[annotation["category_id"]]}
    for category in content["categories"]:
        category["id"] = ids[category["id"]]
    (tmp_path / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    shown = {np.asarray(pixels).tobytes(): 101 + number for number, pixels in enumerate(images)}

    def detect(model: object, image: Image.Image, *rest: object) -> Detected:
        number = shown[np.asarray(image).tobytes()]
        boxes = [annotation for annotation in content["annotations"] if annotation["image_id"] == number]
        corners = np.array([box["bbox"] for box in boxes], np.float32)
        corners[:, 2:] += corners[:, :2]
        labels = np.array([list(ids.values()).index(box["category_id"]) + 1 for box in boxes])
        return Detected(corners, labels, np.full(len(boxes), 0.9, np.float32), None)

    monkeypatch.setattr("perception_encoder.dense_prediction.heads.detect_objects", detect)
    words = ["detect", tmp_path / "images", "--head", detector, "-o", tmp_path / "out"]
    run = run_pe(*words, *(["--images", tmp_path / "coco.json"] if named else []))
    assert run.status == 0 and ("images are numbered by their names" in run.stderr) != named
    truth = COCO(str(tmp_path / "coco.json"))
    scored = COCOeval(truth, truth.loadRes(str(tmp_path / "out" / "results.json")), "bbox")
    scored.evaluate()
    scored.accumulate()
    scored.summarize()
    assert scored.stats[0] == 1
    value = json.loads((tmp_path / "out" / "detections.json").read_text())
    names = sorted(item["file_name"] for item in value["images"])
    assert names == sorted(record["file_name"] for record in content["images"])
    assert all((tmp_path / "images" / name).is_file() and (tmp_path / "out" / name).is_file() for name in names)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b/cup.png"], "{0}/a.png: {1} lists no such image; give images that it lists, under their names"),
        (["x/a.png", "y/a.png"], "{0}/a.png: {1} lists several images like it: x/a.png, y/a.png; give images"),
        (["a.png"], "{0}/a.png and {0}/more/a.png are both a.png of {1}; give one of them"),
    ],
)
def test_images_that_the_annotations_do_not_list_once(
    run_pe: Callable[..., Run], detector: Path, tmp_path: Path, names: list[str], message: str
) -> None:
    for place in [tmp_path, tmp_path / "more"][: 2 if names == ["a.png"] else 1]:
        place.mkdir(exist_ok=True)
        Image.new("RGB", (64, 48)).save(place / "a.png")
    images = [{"id": 1 + row, "file_name": name, "width": 64, "height": 48} for row, name in enumerate(names)]
    file = tmp_path / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": []}), encoding="utf-8")
    run = run_pe("detect", tmp_path, "--head", detector, "--images", file, "-o", tmp_path / "out")
    assert run.status == 2 and message.format(tmp_path, file) in " ".join(run.stderr.split())
    assert not (tmp_path / "out").exists()


def test_annotations_of_another_size_and_other_classes(
    run_pe: Callable[..., Run], detector: Path, tmp_path: Path
) -> None:
    for name in "ab":
        Image.new("RGB", (64, 48)).save(tmp_path / f"{name}.png")
    images = [
        {"id": 7 + row, "file_name": f"{name}.png", "width": 64 + row, "height": 48} for row, name in enumerate("ab")
    ]
    content = {"images": images, "categories": [{"id": 1, "name": "red"}]}
    (tmp_path / "coco.json").write_text(json.dumps(content), encoding="utf-8")
    run = run_pe("detect", tmp_path, "--head", detector, "--images", tmp_path / "coco.json", "-o", tmp_path / "out")
    assert run.status == 0 and "skipped b.png: is 64x48 pixels, but its annotations are for 65x48" in run.stderr
    assert "the detector's class ids are written" in run.stderr and "no category called blue" in run.stderr
    assert [image["id"] for image in json.loads((tmp_path / "out" / "detections.json").read_text())["images"]] == [7]
    run = run_pe("detect", tmp_path, "--head", detector, "--classes", tmp_path / "coco.json", "-o", tmp_path / "more")
    assert run.status == 2 and "has its own class names; omit classes" in run.stderr


def test_frames_have_times(run_pe: Callable[..., Run], detector: Path, depth_head: Path, tmp_path: Path) -> None:
    with write_video(tmp_path / "clip.mp4", (64, 48), 24) as add:
        for number in range(30):
            add(Image.new("RGB", (64, 48), (8 * number, 100, 100)))
    out = tmp_path / "out"
    run = run_pe("detect", tmp_path / "clip.mp4", "--head", detector, "--every", "0.5", "--score", 0.9, "-o", out)
    assert run.status == 0 and "images are numbered 1 to 3; give --images ANNOTATIONS" in run.stderr
    images = json.loads((out / "detections.json").read_text())["images"]
    assert [(image["id"], image["file_name"], image["time"]) for image in images] == [
        (1, "clip.mp4/00000", 0.0),
        (2, "clip.mp4/00001", 0.5),
        (3, "clip.mp4/00002", 1.0),
    ]
    found = pe.depth(tmp_path / "clip.mp4", head=depth_head, every=0.5)
    assert [item.to_dict()["time"] for item in found] == [0.0, 0.5, 1.0]
    frames = list(pe.track(tmp_path / "clip.mp4", tmp_path / "tracked", points=[(0.5, 0.5)], short_side=64))
    written = json.loads((tmp_path / "tracked" / "clip.json").read_text())["frames"]
    times = [number / 24 for number in range(30)]
    assert [frame.time for frame in frames] == [item["time"] for item in written] == times


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
    value = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert value["categories"] == [{"id": number, "name": str(number)} for number in range(1, 6)]
    assert value["annotations"] and isinstance(value["annotations"][0]["segmentation"], list)
    run = detect("--classes", tmp_path / "lvis.json")
    assert run.status == 0 and {line.split("\t")[1] for line in run.stdout.splitlines()[1:]} <= set("abcde")
    value = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert value["categories"] == [{"id": 5 + number, "name": name} for number, name in enumerate("abcde")]
    run = detect("-m", "builtin")
    assert run.status == 2 and "includes its encoder; omit the model" in run.stderr


def test_the_built_in_detector(run_pe: Callable[..., Run], tmp_path: Path) -> None:
    scene = Image.new("RGB", (224, 224), (150, 140, 130))
    scene.paste((200, 20, 20), (70, 90, 140, 170))
    scene.save(tmp_path / "scene.png")
    run = run_pe("detect", tmp_path / "scene.png")
    assert run.status == 0, run.stderr
    columns, best = (line.split("\t") for line in run.stdout.splitlines()[:2])
    assert columns == ["image", "class", "score", "x0", "y0", "x1", "y1"] and best[:2] == ["scene.png", "object"]
    left, top, right, bottom = map(int, best[3:])
    assert abs((left + right) / 2 - 105) < 20 and abs((top + bottom) / 2 - 130) < 20
    run = run_pe("detect", tmp_path / "scene.png", "--json")
    (image,) = json.loads(run.stdout)["images"]
    assert image["objects"][0]["bbox"] == pytest.approx([left, top, right - left, bottom - top], abs=1.01)
    assert [path.name for path in tmp_path.iterdir()] == ["scene.png"]
