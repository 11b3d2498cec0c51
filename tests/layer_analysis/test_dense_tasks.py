"""Tasks of places, on the very features that their evaluators take by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.class_masks import ClassMasks
from perception_encoder.datasets.instances import InstanceSet
from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig
from perception_encoder.errors import DataError, MediaDecodeError
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator, DetectionProtocol
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator, SegmentationProtocol
from perception_encoder.evaluation.dense.tracking import TrackingConfig, TrackingEvaluator
from perception_encoder.evaluation.layer_features import OneLayer
from perception_encoder.evaluation.results import Measurement
from perception_encoder.layer_analysis.colour_encoder import ColourEncoder
from perception_encoder.layer_analysis.dense_tasks import DenseTask
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import LayerCurve, run_sweep
from perception_encoder.layer_analysis.tasks import SizedTask, make_tasks
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import CLEAR, LightnessTask, ToyEncoder

CONFIG = TrackingConfig(short_side=48)
FIT = FitConfig(epochs=12, batch=4, lr=1e-2)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    pictures, masks = discs()
    for name in ("one", "two"):
        write_video(tmp_path / "videos" / f"{name}.tar", pictures, masks)
    return tmp_path / "videos"


def test_tracking_over_layers_is_that_of_the_evaluator(videos: Path, tmp_path: Path) -> None:
    task, encoder = DenseTask(TrackingEvaluator(read_videos(videos), CONFIG)), ToyEncoder()
    found = run_sweep(encoder, [task], StoreConfig(folder=tmp_path / "store", dtype="float32"))
    assert [curve.figure for curve in found.curves] == ["J&F", "J", "F"] and found.curves[0].pool == "tokens"
    assert found.curves[0].best == CLEAR and found.pictures == 12
    for layer in (0, CLEAR):
        (wanted,) = TrackingEvaluator(read_videos(videos), CONFIG).run(OneLayer(encoder, layer))
        values = [curve.scores[layer].value for curve in found.curves]
        assert values == pytest.approx([metric.value for metric in wanted.metrics], abs=1e-6)


def test_frames_of_the_asked_side_and_still_pictures_of_the_asked_size(videos: Path) -> None:
    (task,) = make_tasks(["tracking"], {}, videos, 10, image_size=(8, 8), short_side=24)
    assert [each.image_size for each in task.images(ToyEncoder())] == [(24, 32)] * 2
    still = SizedTask(LightnessTask(broken=(1,)), (8, 12))
    (shown,) = still.images(ToyEncoder())
    assert shown.image_size == (8, 12) and (still.name, still.digest) == ("lightness", "d1")


def test_colours_alone_are_a_layer(videos: Path, tmp_path: Path) -> None:
    encoder, store = ColourEncoder(ToyEncoder()), StoreConfig(folder=tmp_path / "store")
    found = run_sweep(encoder, [DenseTask(TrackingEvaluator(read_videos(videos), CONFIG))], store)
    assert found.model == "colours" and found.curves[0].scores[0].value > 0.7


def test_a_video_that_cannot_be_decoded_whole_is_left_out_and_said(videos: Path, tmp_path: Path) -> None:
    one, two = read_videos(videos)
    bad_frame = replace(one, frames=(one.frames[0], b"cut", *one.frames[2:]))
    task = DenseTask(TrackingEvaluator([bad_frame, two], CONFIG))
    found = run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path / "store"), [CLEAR])
    assert found.curves[0].scores[CLEAR].n == 1 and [f.source for f in found.failures] == ["one/frame 1"]
    bad_mask = replace(two, masks=(two.masks[0], b"cut", *two.masks[2:]))
    task = DenseTask(TrackingEvaluator([one, bad_mask], CONFIG))
    found = run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path / "store"), [CLEAR])
    assert found.curves[0].scores[CLEAR].n == 1 and [f.source for f in found.failures] == ["two/mask 1"]
    assert isinstance(found.failures[0], MediaDecodeError)
    neither = DenseTask(TrackingEvaluator([replace(one, frames=(b"cut",) * len(one.frames))], CONFIG))
    with pytest.raises(DataError, match="tracking: no video can be evaluated; the first: one/frame 0"):
        run_sweep(ToyEncoder(), [neither], StoreConfig(folder=tmp_path / "store"), [CLEAR])


def test_masks_that_will_not_do_are_said_in_every_run(videos: Path, tmp_path: Path) -> None:
    one, two = read_videos(videos)
    empty = replace(one, masks=(png(np.zeros((48, 64), np.uint8)), *one.masks[1:]))
    cut = replace(one, name="zero", masks=(b"cut", *one.masks[1:]))
    store = StoreConfig(folder=tmp_path / "store")
    for _ in range(2):
        found = run_sweep(ToyEncoder(), [DenseTask(TrackingEvaluator([empty, two, cut], CONFIG))], store, [CLEAR])
        assert found.curves[0].scores[CLEAR].n == 1
        assert [failure.source for failure in found.failures] == ["one", "zero/mask 0"]
    with pytest.raises(DataError, match="tracking: no video can be evaluated; the first: one: the mask of the first"):
        run_sweep(ToyEncoder(), [DenseTask(TrackingEvaluator([empty], CONFIG))], store, [CLEAR])


def squares(count: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A light square on a dark floor, somewhere: pictures (16, 16, 3), and where it is, bool (16, 16)."""
    rng = np.random.default_rng(seed)
    pictures, masks = [], []
    for _ in range(count):
        mask = np.zeros((16, 16), bool)
        top, left = 4 * rng.integers(0, 3, 2)
        mask[top : top + 8, left : left + 8] = True
        pictures.append(np.where(mask[..., None], (200, 210, 190), (60, 40, 50)).astype(np.uint8))
        masks.append(mask)
    return pictures, masks


def agrees(curves: Sequence[LayerCurve], layer: int, wanted: Measurement) -> None:
    """The sweep's figures at a layer are the evaluator's."""
    found = {curve.figure: curve.scores[layer].value for curve in curves}
    assert found == pytest.approx({metric.name: metric.value for metric in wanted.metrics}, abs=1e-5)


def depth_pictures(seed: int, broken: bool = False, far: bool = False) -> DepthImages:
    pictures, masks = squares(10, seed)
    depths = [png(np.where(mask, 1000, 3000).astype(np.uint16)) for mask in masks]
    keys = tuple(f"{seed}-{row}" for row in range(10))
    depths[0] = b"cut" if broken else png(np.full((16, 16), 60_000, np.uint16)) if far else depths[0]
    return DepthImages(name="squares", keys=keys, images=tuple(map(png, pictures)), depths=tuple(depths))


def test_depth_over_layers_is_that_of_the_evaluator(tmp_path: Path) -> None:
    parts, protocol = (
        (depth_pictures(0, broken=True), depth_pictures(1, far=True)),
        DepthProtocol(head=DepthConfig(channels=8, fit=FIT)),
    )
    store, encoder = StoreConfig(folder=tmp_path / "store", dtype="float32"), ToyEncoder()
    found = run_sweep(encoder, [DenseTask(DepthEvaluator(*parts, protocol))], store, [0, CLEAR])
    curve = found.curves[0]
    assert curve.figure == "RMSE" and curve.lower_is_better and curve.best == CLEAR and curve.unit == "m"
    assert [failure.source for failure in found.failures] == ["0-0 (depth)", "1-0"] and curve.scores[0].n == 9
    (wanted,) = DepthEvaluator(*parts, protocol).run(OneLayer(encoder, CLEAR))
    agrees(found.curves, CLEAR, wanted)


def test_segmentation_over_layers_is_that_of_the_evaluator(tmp_path: Path) -> None:
    def part(seed: int) -> ClassMasks:
        pictures, masks = squares(10, seed)
        return ClassMasks(
            name="squares",
            keys=tuple(f"{seed}-{row}" for row in range(10)),
            images=tuple(map(png, pictures)),
            masks=tuple(png(mask.astype(np.uint8)) for mask in masks),
            classes=("background", "square"),
            numbers=({0: 0, 1: 1},) * 10,
        )

    parts, protocol = (part(0), part(1)), SegmentationProtocol(head=SegmentationConfig(fit=FIT))
    store, encoder = StoreConfig(folder=tmp_path / "store", dtype="float32"), ToyEncoder()
    found = run_sweep(encoder, [DenseTask(SegmentationEvaluator(*parts, protocol))], store, [0, CLEAR])
    curve = found.curves[0]
    assert curve.figure == "mIoU" and curve.best == CLEAR and curve.scores[CLEAR].value > 0.7
    (wanted,) = SegmentationEvaluator(*parts, protocol).run(OneLayer(encoder, CLEAR))
    agrees(found.curves, CLEAR, wanted)
    protocol = DepthProtocol(head=DepthConfig(channels=8, fit=FIT))
    depth = DenseTask(DepthEvaluator(depth_pictures(0), depth_pictures(1), protocol))
    seen = encoder.seen
    run_sweep(encoder, [depth], store, [0, CLEAR])
    assert encoder.seen == seen  # the same pictures, so the same features


def test_detection_over_layers_is_that_of_the_evaluator(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    pytest.importorskip("faster_coco_eval")

    def part(seed: int) -> InstanceSet:
        pictures, masks = squares(4, seed)
        boxes = [[int(xs.min()), int(ys.min()), 8, 8] for ys, xs in map(np.nonzero, masks)]
        return InstanceSet(
            name="squares",
            records=tuple({"id": row, "width": 16, "height": 16} for row in range(4)),
            keys=tuple(f"{seed}-{row}.png" for row in range(4)),
            images=tuple(map(png, pictures)),
            annotations={
                row: [{"id": row + 1, "image_id": row, "category_id": 1, "bbox": box}] for row, box in enumerate(boxes)
            },
            categories=({"id": 1, "name": "square"},),
        )

    parts = part(0), part(1)
    head = DetectionConfig(channels=8, hidden=16, regions=16, fit=FitConfig(epochs=2, batch=4))
    store, encoder = StoreConfig(folder=tmp_path / "store", dtype="float32"), ToyEncoder()
    task = DenseTask(DetectionEvaluator(*parts, DetectionProtocol(head=head)))
    found = run_sweep(encoder, [task], store, [CLEAR])
    assert found.curves[0].figure == "box AP"
    (wanted,) = DetectionEvaluator(*parts, DetectionProtocol(head=head)).run(OneLayer(encoder, CLEAR))
    agrees(found.curves, CLEAR, wanted)


def test_pictures_none_of_which_can_be_decoded(tmp_path: Path) -> None:
    bad = replace(depth_pictures(0), images=(b"cut",) * 10)
    with pytest.raises(DataError, match="depth: no image can be used; the first: 0-0"):
        run_sweep(
            ToyEncoder(), [DenseTask(DepthEvaluator(bad, depth_pictures(1)))], StoreConfig(folder=tmp_path / "store")
        )
