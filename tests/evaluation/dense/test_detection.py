"""Detection: formats, an oracle that finds all, and what cannot be measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch

from perception_encoder.datasets.instances import InstanceSet, read_instance_splits, read_instances
from perception_encoder.dense_prediction.detection import Detected, DetectionConfig, _target, fit_detector
from perception_encoder.dense_prediction.feature_pyramid import SimplePyramid
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError, MediaNotFoundError, ModelError
from perception_encoder.evaluation.dense.average_precision import average_precision
from perception_encoder.evaluation.dense.detection import (
    DetectionEvaluator,
    DetectionProtocol,
    score_detection,
    to_results,
)
from perception_encoder.evaluation.layer_features import OneLayer
from perception_encoder.evaluation.statistics.scores import by_metric, difference
from perception_encoder.formats.shards import write_members
from perception_encoder.models.seeded import drawn_from
from tests.evaluation.layers import ColourLayers, png

pytest.importorskip("torchvision")
pytest.importorskip("faster_coco_eval")

T = TypeVar("T")
SMALL = DetectionConfig(channels=16, hidden=32, regions=32, fit=FitConfig(epochs=1, batch=4))


def described(images: int, masks: bool = True, seed: int = 0) -> tuple[dict[str, Any], list[np.ndarray]]:
    """COCO's json of pictures (48, 64) with a red or blue rectangle or two, and the pictures."""
    rng = np.random.default_rng(seed)
    said: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 4, "name": "red"}, {"id": 9, "name": "blue"}],
    }
    pictures = []
    for number in range(1, images + 1):
        picture = np.full((48, 64, 3), 90, np.uint8)
        said["images"].append({"id": number, "file_name": f"{number}.jpg", "width": 64, "height": 48})
        for half in range(1 + number % 2):
            top, left = int(rng.integers(0, 20)), int(rng.integers(0, 10)) + 32 * half
            height, width = int(rng.integers(14, 28)), int(rng.integers(12, 22))
            category = int(rng.choice([4, 9]))
            picture[top : top + height, left : left + width] = (220, 30, 30) if category == 4 else (30, 30, 220)
            right, low = left + width, top + height
            outline = [[left, top, right, top, right, low, left, low]]
            box = [left, top, width, height]
            annotation = {"id": len(said["annotations"]) + 1, "image_id": number, "category_id": category, "bbox": box}
            said["annotations"].append(
                annotation | {"area": width * height, "iscrowd": 0} | ({"segmentation": outline} if masks else {})
            )
        pictures.append(picture)
    return said, pictures


def write_scenes(place: Path, counts: dict[str, int], masks: bool = True) -> Path:
    for seed, (split, count) in enumerate(counts.items()):
        said, pictures = described(count, masks, seed)
        write_members(place / split / "00000.tar", [(f"{n}.jpg", png(p)) for n, p in enumerate(pictures, start=1)])
        (place / split / "instances.json").write_text(json.dumps(said), encoding="utf-8")
    return place


def test_things_are_read(tmp_path: Path) -> None:
    train, test = read_instance_splits(write_scenes(tmp_path, {"train": 3, "test": 2}))
    assert (len(train.keys), test.keys) == (3, ("1.jpg", "2.jpg")) and train.open(0).size == (64, 48)
    things = train.instances(0)
    left, top, width, height = train.annotations[1][0]["bbox"]
    assert things.boxes[0].tolist() == [left, top, left + width, top + height]
    assert set(things.labels) <= {1, 2} and things.masks.shape == (2, 48, 64)
    assert things.masks[0].sum() == width * height and things.masks[0][top, left]


def test_run_lengths_of_scenes_and_crowds(tmp_path: Path) -> None:
    said, _ = described(1)
    said["annotations"] = said["annotations"][:1]
    said["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": [48, 2, 48 * 63 - 2]}
    crowd = {**said["annotations"][0], "id": 7, "iscrowd": 1}
    (tmp_path / "annotations.json").write_text(
        json.dumps({**said, "annotations": [*said["annotations"], crowd]}), encoding="utf-8"
    )
    found = read_instances(tmp_path / "annotations.json", tmp_path)
    masks = found.instances(0).masks
    assert masks.shape == (1, 48, 64) and masks[0, :2, 1].all() and masks.sum() == 2
    with pytest.raises(MediaNotFoundError, match=r"1\.jpg"):
        found.open(0)


def test_coco_and_lvis_folders(tmp_path: Path) -> None:
    said, pictures = described(2)
    for name, folder in (("instances_{}2017", "coco"), ("lvis_v1_{}", "lvis")):
        for split in ("train", "val"):
            images = said["images"]
            if folder == "lvis":
                images = [
                    {**{k: v for k, v in image.items() if k != "file_name"}, "neg_category_ids": [9]}
                    | {"not_exhaustive_category_ids": [], "coco_url": f"http://x/train2017/{image['id']}.jpg"}
                    for image in images
                ]
            (tmp_path / folder / "annotations").mkdir(parents=True, exist_ok=True)
            file = tmp_path / folder / "annotations" / f"{name.format(split)}.json"
            file.write_text(json.dumps({**said, "images": images}), encoding="utf-8")
            (tmp_path / folder / f"{split}2017").mkdir()
            for number, picture in enumerate(pictures, start=1):
                (tmp_path / folder / f"{split}2017" / f"{number}.jpg").write_bytes(png(picture))
    train, test = read_instance_splits(tmp_path / "coco")
    assert test.open(1).size == (64, 48) and not test.lvis
    train, test = read_instance_splits(tmp_path / "lvis")
    assert test.lvis and test.keys[0] == "train2017/1.jpg" and train.open(0).size == (64, 48)


@pytest.mark.parametrize(
    ("part", "field", "value", "said"),
    [
        ("images", "file_name", 7, r"images\[1\]: `file_name` is 7; it must be a text that is not empty"),
        ("images", "file_name", None, r"images\[1\]: `file_name` is missing or null"),
        ("images", "file_name", ["a"], r"images\[1\]: `file_name` is \['a'\]"),
        ("images", "id", "2", r"images\[1\]: `id` is '2'; it must be an integer of at least 0"),
        ("images", "width", 0, r"images\[1\]: `width` is 0; it must be an integer of at least 1"),
        ("images", "height", 10**9, r"images\[1\]: has 64 x 1000000000 pixels; the limit is"),
        ("categories", "id", None, r"categories\[1\]: `id` is missing or null"),
        ("annotations", "image_id", [1], r"annotations\[1\]: `image_id` is \[1\]; it must be an integer"),
        ("annotations", "category_id", {}, r"annotations\[1\]: `category_id` is {}; it must be an integer"),
        ("annotations", "bbox", [1, 2, "3", 4], r"annotations\[1\]: `bbox` is \[1, 2, '3', 4\]; it must be \[left"),
        ("annotations", "bbox", [1, 2, 3], r"annotations\[1\]: `bbox` is \[1, 2, 3\]"),
        ("annotations", "bbox", [0, 0, 1, float("nan")], r"annotations\[1\]: `bbox` is \[0, 0, 1, nan\]"),
        ("annotations", "iscrowd", "no", r"annotations\[1\]: `iscrowd` is 'no'; it must be 0 or 1"),
        ("annotations", "area", "big", r"annotations\[1\]: `area` is 'big'; it must be a number of pixels"),
        ("annotations", "segmentation", [[1, 2, 3]], r"annotations\[1\]: `segmentation` is \[\[1, 2, 3\]\]; it must"),
        ("annotations", "segmentation", {"size": [9, 9], "counts": "0"}, r"and the `size` of the image, \[48, 64\]"),
    ],
)
def test_a_field_of_another_type_is_named(tmp_path: Path, part: str, field: str, value: Any, said: str) -> None:
    content, _ = described(3)
    content[part][1][field] = value
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"annotations\.json: " + said if "size" not in said else said):
        read_instances(tmp_path / "annotations.json", tmp_path)


def test_a_mask_that_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    content, _ = described(2)
    content["annotations"][0]["segmentation"] = {"size": [48, 64], "counts": "zzzz~~~@@@"}
    (tmp_path / "annotations.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"1\.jpg: the mask of annotation 1 cannot be decoded"):
        read_instances(tmp_path / "annotations.json", tmp_path).instances(0)


def test_annotations_are_chosen_by_their_file(tmp_path: Path) -> None:
    said, pictures = described(2)
    (tmp_path / "annotations").mkdir()
    for stem, categories in (("instances_{}2017", said["categories"]), ("lvis_v1_{}", [{"id": 9, "name": "x"}])):
        for split in ("train", "val"):
            file = tmp_path / "annotations" / f"{stem.format(split)}.json"
            annotations = [{**each, "category_id": categories[0]["id"]} for each in said["annotations"]]
            file.write_text(json.dumps({**said, "annotations": annotations, "categories": categories}), "utf-8")
            (tmp_path / f"{split}2017").mkdir(exist_ok=True)
            for number, picture in enumerate(pictures, start=1):
                (tmp_path / f"{split}2017" / f"{number}.jpg").write_bytes(png(picture))
    with pytest.raises(DataError, match=r"several annotations; give one of .*_val2017.json, .*lvis_v1_val.json"):
        read_instance_splits(tmp_path)
    train, test = read_instance_splits(tmp_path / "annotations" / "lvis_v1_val.json")
    assert [each["id"] for each in test.categories] == [9] and train.name.endswith("lvis_v1_train")
    assert train.open(0).size == test.open(0).size == (64, 48)
    with pytest.raises(DataError, match="give the annotations of val, beside those of train"):
        read_instance_splits(tmp_path / "annotations" / "lvis_v1_train.json")


def found_all(pictures: InstanceSet, row: int) -> Detected:
    things = pictures.instances(row)
    return Detected(things.boxes, things.labels, np.ones(len(things.labels), np.float32), things.masks)


def test_an_oracle_finds_all(tmp_path: Path) -> None:
    _, test = read_instance_splits(write_scenes(tmp_path, {"train": 1, "test": 4}))
    rows = np.arange(4)
    results = [to_results(found_all(test, row), test, row) for row in range(4)]
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        every = [each for some in results for each in some[name]]
        assert average_precision(test.truth(rows), every, kind, resamples=5).values["AP"] == pytest.approx(1)


def test_targets_and_what_is_found_go_to_the_encoded_size_and_back(tmp_path: Path) -> None:
    train, _ = read_instance_splits(write_scenes(tmp_path, {"train": 1, "test": 1}))
    things = train.instances(0)
    target = _target(things, (48, 64), (96, 64))
    assert target["boxes"].numpy() == pytest.approx(things.boxes * [1, 2, 1, 2])
    assert (target["masks"].sum(dim=(1, 2)).numpy() == 2 * things.masks.sum(axis=(1, 2))).all()


def test_kinds_can_be_forgotten(tmp_path: Path) -> None:
    parts = read_instance_splits(write_scenes(tmp_path, {"train": 3, "test": 2}))
    known = parts[0].instances(0)
    assert len(set(known.labels)) == 2
    train, test = (part.merge_classes() for part in parts)
    things = train.instances(0)
    assert things.labels.tolist() == [1, 1] and things.masks is None and (things.boxes == known.boxes).all()
    found = [each for row in range(2) for each in to_results(found_all(test, row), test, row)["box"]]
    truth = test.truth(np.arange(2))
    assert [each["name"] for each in truth["categories"]] == ["object"]
    assert average_precision(truth, found, "bbox", resamples=5).values["AP"] == pytest.approx(1)
    with pytest.raises(DataError, match="LVIS has no boxes of objects that were not looked for"):
        replace(train, records=({**train.records[0], "neg_category_ids": []},)).merge_classes()


def test_the_pyramid_has_five_levels() -> None:
    pyramid = SimplePyramid(6, 4)
    assert [tuple(level.shape) for level in pyramid(torch.zeros(1, 8, 6, 6)).values()] == [
        (1, 4, 32, 24),
        (1, 4, 16, 12),
        (1, 4, 8, 6),
        (1, 4, 4, 3),
        (1, 4, 2, 2),
    ]


@pytest.mark.parametrize("masks", [True, False])
def test_a_detector_is_fitted_and_measured(tmp_path: Path, masks: bool) -> None:
    train, test = read_instance_splits(write_scenes(tmp_path, {"train": 6, "test": 2}, masks))
    encoder = ColourLayers(16, (48, 64))
    (found,) = DetectionEvaluator(train, test, DetectionProtocol(head=SMALL)).run(OneLayer(encoder, 0))
    failures = found.failures
    assert not failures and found.method == ("Mask R-CNN" if masks else "Faster R-CNN")
    names = ["box AP", "box AP50", "box AP75"] + (["mask AP", "mask AP50", "mask AP75"] if masks else [])
    assert [metric.name for metric in found.metrics] == names
    (again,) = DetectionEvaluator(train, test, DetectionProtocol(head=SMALL)).run(OneLayer(encoder, 0))
    assert again.metrics == found.metrics  # what is drawn at random hangs on the seed
    assert [scores.metric for scores in found.scores] == names * 3  # three head seeds
    assert [scores.seed for scores in found.scores[:: len(names)]] == [0, 1, 2] and found.settings["head seeds"] == "3"
    gap = difference(*(by_metric(each.scores)["box AP"] for each in (found, again)))
    assert (gap.value, gap.interval, gap.n) == (0, (0, 0), 2)


def test_lvis_counts_more_things_and_less_sure_ones(tmp_path: Path) -> None:
    place = write_scenes(tmp_path, {"train": 2, "test": 1})
    coco = read_instance_splits(place)
    for split in ("train", "test"):
        file = place / split / "instances.json"
        said = json.loads(file.read_text(encoding="utf-8"))
        for image in said["images"]:
            image |= {"neg_category_ids": [], "not_exhaustive_category_ids": []}
        for category in said["categories"]:
            category["frequency"] = "f"
        file.write_text(json.dumps(said), encoding="utf-8")
    lvis = read_instance_splits(place)
    asked = replace(SMALL, most=7, least_score=0.0)
    for parts, head, limits in (
        (coco, SMALL, (0.05, 100)),
        (lvis, SMALL, (0.0001, 300)),
        (lvis, asked, (0.0, 7)),
    ):
        model = fit_detector(np.zeros((2, 3, 4, 3)), parts[0], np.arange(2), config=head).model
        assert (model.roi_heads.score_thresh, model.roi_heads.detections_per_img) == limits
    (found,) = DetectionEvaluator(*lvis, DetectionProtocol(head=SMALL)).run(OneLayer(ColourLayers(16, (48, 64)), 0))
    assert (found.settings["most"], found.settings["least score"]) == ("300", "0.0001")
    assert "box APf" in [metric.name for metric in found.metrics]


def test_targets_are_made_batch_by_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All masks of COCO at 1022 pixels would be 147 GB."""
    train, _ = read_instance_splits(write_scenes(tmp_path, {"train": 6, "test": 1}))
    asked: list[int] = []
    things, seen = InstanceSet.instances, []
    monkeypatch.setattr(
        InstanceSet, "instances", lambda self, row, *rest: asked.append(row) or things(self, row, *rest)
    )

    def track(steps: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        for step in steps:
            seen.append(len(asked))
            yield step

    fit = FitConfig(epochs=2, batch=2)
    fit_detector(np.zeros((3, 3, 4, 3)), train, np.array([4, 0, 2]), config=replace(SMALL, fit=fit), track=track)
    assert seen == [1, 3, 4, 6] and asked[0] == 4 and sorted(asked[1:4]) == [0, 2, 4]


@pytest.mark.parametrize("without", ["train", "test"])
def test_masks_are_learned_and_measured_where_both_sets_have_them(
    without: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = write_scenes(tmp_path, {"train": 2, "test": 2})
    file = place / without / "instances.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    del said["annotations"][1]["segmentation"]
    file.write_text(json.dumps(said), encoding="utf-8")
    train, test = read_instance_splits(place)
    lacking, other = caplog.messages
    assert f"{without}/instances.json: annotations without a mask: 1 of 3, annotation 2 of picture 1 first" in lacking
    assert f"only {({'train', 'test'} - {without}).pop()}/instances has masks" in other
    (found,) = DetectionEvaluator(train, test, DetectionProtocol(head=SMALL)).run(
        OneLayer(ColourLayers(16, (48, 64)), 0)
    )
    assert [metric.name for metric in found.metrics] == ["box AP", "box AP50", "box AP75"]
    assert found.method == "Faster R-CNN"


def test_categories_of_both_sets_are_the_same(tmp_path: Path) -> None:
    place = write_scenes(tmp_path, {"train": 2, "test": 1})
    file = place / "test" / "instances.json"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('"blue"', '"navy"'), encoding="utf-8")
    with pytest.raises(DataError, match=r"different categories, first \(9, 'blue'\) and \(9, 'navy'\)"):
        read_instance_splits(place)
    said = json.loads(text)
    file.write_text(json.dumps({**said, "categories": said["categories"] + [{"id": 11}]}), encoding="utf-8")
    with pytest.raises(DataError, match=r"first None and \(11, None\)"):
        read_instance_splits(place)


def test_every_loss_falls_where_there_is_something_to_see(tmp_path: Path) -> None:
    """Losses on what was fitted, after a step at no rate and 40 at a rate."""
    train, _ = read_instance_splits(write_scenes(tmp_path, {"train": 4, "test": 1}))
    maps = ColourLayers(8).encode_layers([train.open(n) for n in range(4)], [0], (48, 64))[0].patches
    encoded = (96, 128)
    targets = [_target(train.instances(n), (48, 64), encoded) for n in range(4)]
    losses = []
    for epochs, rate in ((1, 0.0), (40, 2e-3)):
        fit = FitConfig(epochs=epochs, batch=4, lr=rate)
        config = DetectionConfig(channels=16, hidden=32, regions=16, fit=fit)
        detector = fit_detector(maps, train, np.arange(4), config=config).train()
        with torch.no_grad(), drawn_from(torch.Generator().manual_seed(0)):
            _, found = detector(torch.from_numpy(maps), targets)
        losses.append({name: float(value) for name, value in found.items()})
    before, after = losses
    assert len(after) == 5 and all(after[name] < before[name] for name in after)
    assert after["loss_classifier"] < before["loss_classifier"] / 3
    assert after["loss_objectness"] < before["loss_objectness"] / 3


def test_boxes_without_area_are_not_learned_from_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As in COCO's pictures 200365 and 550395."""
    place = write_scenes(tmp_path, {"train": 4, "test": 2})
    file = place / "train" / "instances.json"
    said = json.loads(file.read_text(encoding="utf-8"))
    said["annotations"][0]["bbox"][2] = 0  # of picture 1, which has another one
    said["annotations"][2]["bbox"][3] = 0  # all that picture 2 has
    file.write_text(json.dumps(said), encoding="utf-8")
    train, test = read_instance_splits(place)
    (found,) = DetectionEvaluator(train, test, DetectionProtocol(head=SMALL)).run(
        OneLayer(ColourLayers(16, (48, 64)), 0)
    )
    failures = found.failures
    assert not failures and found.settings["train"] == "4" and len(found.metrics) == 6
    assert [len(train.instances(row).labels) for row in range(4)] == [1, 0, 2, 1]
    assert len(train.truth(range(4))["annotations"]) == 6
    (warning,) = caplog.messages
    assert "train/instances.json: boxes without area: 2, annotation 1 of image 1 first" in warning


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotations/instances_val2017"):
        read_instance_splits(tmp_path)
    (tmp_path / "annotations.json").write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match=r"annotations\.json cannot be read"):
        read_instance_splits(tmp_path)
    said, _ = described(2)
    (tmp_path / "annotations.json").write_text(json.dumps({**said, "annotations": []}), encoding="utf-8")
    with pytest.raises(DataError, match="there is no box"):
        read_instance_splits(tmp_path)
    said["annotations"][0]["category_id"] = 5
    (tmp_path / "annotations.json").write_text(json.dumps(said), encoding="utf-8")
    whole = read_instances(tmp_path / "annotations.json", tmp_path)
    with pytest.raises(DataError, match=r"1\.jpg: annotation 1 has no category that is in the list"):
        whole.instances(0)
    maps = np.full((2, 3, 4, 3), np.nan)
    with pytest.raises(ModelError, match=r"1\.jpg first"):
        score_detection(np.zeros((2, 3, 4, 3)), (whole, np.arange(2)), maps, (whole, np.arange(2)))


def test_the_coco_subset(real_data: Path) -> None:
    train, test = read_instance_splits(real_data / "coco")
    assert len(train.keys) == 15 and len(test.keys) == 10 and not test.has_masks
    assert train.instances(0).boxes.shape[1] == 4
