"""The promises of every evaluator: finite scores, the same bits again, bad items named, and sweeps that agree."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.datasets.instances import read_instance_splits
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.datasets.masked_videos import MaskedVideo
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.detection.mask_rcnn import DetectionConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.dense_prediction.segmentation import SegmentationConfig
from perception_encoder.errors import DataError, MissingExtraError, ModelError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator
from perception_encoder.evaluation.classification.probes import LinearEvaluator, NeighboursEvaluator
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import ZeroShotEvaluator
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.results import compare_results, from_json, run_evaluators, to_json
from perception_encoder.evaluation.retrieval import RetrievalEvaluator
from perception_encoder.inference.encoder import Encoder
from perception_encoder.layer_analysis.sweep import run_sweep
from perception_encoder.layer_analysis.tasks import ClassificationTask, LabelledConfig, RetrievalTask
from tests.datasets.drawn import drawn_masks, label_maps, pairs, rooms, write_instances
from tests.evaluation.colours import ColourTowers, colour_encoder, image_bytes
from tests.evaluation.layers import colour_source, discs, png

COLOURS = ("red", "green", "blue")
CUT = b"\x89PNG cut"
FIT = FitConfig(epochs=1, batch=4)
Make = Callable[[Sequence[int], Path], Any]
"""Makes an evaluator of three test items, without those that are broken."""


def labelled(name: str, count: int, broken: Sequence[int] = ()) -> LabelledImages:
    labels = COLOURS * (count // 3)
    shades = {"a": 0, "b": 40, "c": 80}[name]
    images = tuple(CUT if row in broken else image_bytes(label, shades + row) for row, label in enumerate(labels))
    return LabelledImages("toys", tuple(f"{name}{row}" for row in range(count)), images, labels)


def splits(broken: Sequence[int]) -> Splits:
    return Splits(train=labelled("a", 12), val=labelled("b", 3), test=labelled("c", 3, broken))


def without(images: Any, broken: Sequence[int]) -> Any:
    return replace(images, images=tuple(CUT if row in broken else item for row, item in enumerate(images.images)))


def captioned(broken: Sequence[int], _: Path) -> RetrievalEvaluator:
    images = labelled("c", 3, broken)
    captions = tuple((colour,) for colour in COLOURS)
    return RetrievalEvaluator(CaptionedMedia("toys", images.keys, images.images, captions))


def videos(broken: Sequence[int], _: Path) -> TrackingEvaluator:
    frames, masks = ([png(item) for item in part] for part in discs(4))
    items = [MaskedVideo(f"c{row}", (CUT if row in broken else frames[0], *frames[1:]), masks) for row in range(3)]
    return TrackingEvaluator(items, 48)


def detection(broken: Sequence[int], directory: Path) -> DetectionEvaluator:
    pytest.importorskip("torchvision")
    pytest.importorskip("faster_coco_eval")
    train, test = read_instance_splits(write_instances(directory, {"train": 3, "test": 3}))
    test = replace(without(test, broken), keys=("c0", "c1", "c2"))
    return DetectionEvaluator(train, test, DetectionConfig(channels=8, hidden=16, regions=16, fit=FIT), head_seeds=2)


ATTENTIVE = AttentiveConfig(fit=FIT, learning_rates=(1e-2,), head_seeds=2)
ENCODERS: dict[str, Make] = {
    "zero-shot": lambda broken, _: ZeroShotEvaluator(labelled("c", 3, broken), ("name", "kinetics")),
    "retrieval": captioned,
    "k-NN": lambda broken, _: NeighboursEvaluator(splits(broken), (1, 3)),
    "linear": lambda broken, _: LinearEvaluator(splits(broken)),
}
LAYERS: dict[str, Make] = {
    "attentive": lambda broken, _: AttentiveEvaluator(splits(broken), ATTENTIVE),
    "segmentation": lambda broken, _: SegmentationEvaluator(
        drawn_masks("a", label_maps(4, 0)),
        without(drawn_masks("c", label_maps(3, 1)), broken),
        SegmentationConfig(fit=FIT),
        head_seeds=2,
    ),
    "depth": lambda broken, _: DepthEvaluator(
        pairs("a", rooms(4, 0)),
        without(pairs("c", rooms(3, 1)), broken),
        DepthProtocol(head=DepthConfig(channels=4, fit=FIT)),
        head_seeds=2,
    ),
    "detection": detection,
    "tracking": videos,
    "labels": lambda broken, _: ClassificationTask(splits(broken), LabelledConfig(attentive=ATTENTIVE)),
    "images": lambda broken, _: RetrievalTask(labelled("c", 6, range(6) if len(broken) > 1 else broken)),
}
EVERY = {**ENCODERS, **LAYERS}


def model_for(name: str) -> Any:
    return Embeddings(colour_encoder()) if name in ENCODERS else colour_source(16, (48, 64))


@pytest.mark.parametrize("name", EVERY)
def test_scores_are_finite_have_intervals_and_the_same_bits_again(name: str, tmp_path: Path) -> None:
    first, again = (
        run_evaluators([EVERY[name]((), tmp_path)], {"squash": model_for(name)}, "test", {}) for _ in range(2)
    )
    assert first == again and not first.failures
    assert len({(score.key, score.name) for score in first.scores}) == len(first.scores)
    for score in first.scores:
        assert np.isfinite(score.value) and score.n == (6 if name == "images" else 3) and score.task, score.name
        assert score.interval is not None and score.interval[0] <= score.value <= score.interval[1], score.name
    read = from_json(to_json(first), "r.json")
    assert read == first and all(item.winner is None for item in compare_results(read, again))


@pytest.mark.parametrize("name", EVERY)
def test_items_that_cannot_be_decoded_are_named_and_left_out(name: str, tmp_path: Path) -> None:
    scores = list(EVERY[name]((1,), tmp_path).run(model_for(name)))
    for score in scores:
        source = "c1/frame 0" if name == "tracking" else "c1"
        assert [failure.source for failure in score.failures] == [source]
        assert score.n == (5 if name == "images" else 2)
    with pytest.raises(DataError, match=r"c0|only one item"):
        list(EVERY[name]((0, 1, 2), tmp_path).run(model_for(name)))


@pytest.mark.parametrize("name", EVERY)
def test_features_that_are_not_finite_are_a_model_error(name: str, tmp_path: Path) -> None:
    class Broken(ColourTowers):
        def images(self, *arguments: Any) -> np.ndarray:
            return super().images(*arguments) * np.nan

    broken = Embeddings(Encoder(Broken())), colour_source(16, (48, 64), 2)
    model = broken[name not in ENCODERS]
    with pytest.raises(ModelError, match=r"colours.* gives NaN or infinity in (float32|\d+ of \d+ vectors of )"):
        list(EVERY[name]((), tmp_path).run(model))


@pytest.mark.parametrize("name", LAYERS)
def test_scipy_is_missed_before_features_are_extracted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model = EVERY[name]((), tmp_path), model_for(name)
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    model.features.towers.tokens = lambda *_: pytest.fail("features were extracted")
    with pytest.raises(MissingExtraError, match="scipy"):
        list(task.run(model))


@pytest.mark.parametrize("name", LAYERS)
def test_a_sweep_has_the_scores_of_the_evaluator_and_does_not_repeat_them(name: str, tmp_path: Path) -> None:
    """Features are cached in float32."""
    source, cache = model_for(name), FeatureCache(directory=tmp_path / "store", dtype="float32")
    source.features.depth = 1
    sweep = run_sweep(source.features, {name: EVERY[name]((), tmp_path)}, cache, [0])
    alone = list(EVERY[name]((), tmp_path).run(source))
    assert [curve.metric for curve in sweep.curves] == [score.name for score in alone]
    for curve, score in zip(sweep.curves, alone, strict=True):
        found = curve.scores[0]
        assert (found.n, found.unit, found.lower_is_better) == (score.n, score.unit, score.lower_is_better)
        assert found.value == pytest.approx(score.value, abs=1e-5)
    source.features.towers.tokens = lambda *_: pytest.fail("features were extracted")
    again = run_sweep(source.features, {name: EVERY[name]((), tmp_path)}, cache, [0])
    for one, other in zip(sweep.curves, again.curves, strict=True):
        assert one.scores[0].to_dict() == other.scores[0].to_dict()
