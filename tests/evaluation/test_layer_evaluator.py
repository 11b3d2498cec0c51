"""Evaluators of layers: refused before features are extracted, and read one set after the other."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial

import pytest

from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError, MissingExtraError
from perception_encoder.evaluation.classification.attentive_probe import AttentiveConfig, AttentiveEvaluator
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.detection import DetectionEvaluator
from perception_encoder.evaluation.dense.segmentation import SegmentationEvaluator
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from tests.datasets.drawn import pairs, rooms
from tests.evaluation.layers import ColourLayers


def test_no_head_seed_is_refused_before_features_are_extracted() -> None:
    for make in (AttentiveConfig, partial(DepthEvaluator, pairs("a", rooms(1, 0)), pairs("b", rooms(1, 1)))):
        with pytest.raises(ConfigError, match="number of head seeds is 0"):
            make(head_seeds=0)


@pytest.mark.parametrize(
    "evaluator", [AttentiveEvaluator, SegmentationEvaluator, DetectionEvaluator, DepthEvaluator, TrackingEvaluator]
)
def test_scipy_is_missed_before_features_are_extracted(
    evaluator: type[LayerEvaluator], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is there: whatever is looked at first is another error."""
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    empty = object.__new__(evaluator)
    with pytest.raises(MissingExtraError, match="scipy"):
        empty.run(None)


def test_the_test_set_is_not_encoded_without_training_images() -> None:
    encoder, depths = ColourLayers(4, (24, 32)), rooms(2, 0)
    encoded: list[int] = []
    encode = encoder.encode_layers
    encoder.encode_layers = lambda images, *rest: encoded.append(len(images)) or encode(images, *rest)
    bad = replace(pairs("a", depths), images=(b"cut", b"cut"))
    protocol = DepthProtocol(head=DepthConfig(channels=4, fit=FitConfig(epochs=1)))
    with pytest.raises(DataError, match="depth: no image can be used; the first: a0"):
        DepthEvaluator(bad, pairs("b", depths), protocol).run(encoder.at(0))
    assert encoded == []
    cut = replace(pairs("b", depths), images=(pairs("b", depths).images[0], b"cut"))
    (result,) = DepthEvaluator(pairs("a", depths), cut, protocol).run(encoder.at(0))
    assert encoded == [2, 1] and [failure.source for failure in result.failures] == ["b1"]
