"""The sweep finds the best layer, caches scores, and agrees with the evaluators; colours alone are one layer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.datasets.rgbd import DepthImages
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError, MediaDecodeError, ModelError
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import ResampledScores
from perception_encoder.layer_analysis.curve import LayerCurve, recommend
from perception_encoder.layer_analysis.sweep import ColourFeatures, run_sweep
from perception_encoder.progress import Track, untracked
from tests.evaluation.layers import discs, png, write_video
from tests.layer_analysis.toys import CLEAR, LightnessTask, ToyEncoder, plain

SHORT_SIDE = 48
FIT = FitConfig(epochs=12, batch=4, lr=1e-2)


def test_the_clear_layer_is_best(tmp_path: Path) -> None:
    sweep = run_sweep(ToyEncoder(), [LightnessTask(broken=(3,))], FeatureCache(directory=tmp_path))
    curve = sweep.curves[0]
    assert [item.metric for item in sweep.curves] == ["likeness", "mean"] and list(curve.scores) == [0, 1, 2, 3]
    assert curve.best == CLEAR and curve.last == 3 and curve.scores[CLEAR].value == pytest.approx(1, abs=1e-3)
    assert sweep.images == 20 and [str(failure) for failure in sweep.failures] == ["grey 3: is cut"]
    result = recommend(curve)
    assert result.is_real and result.command == f"--layer {CLEAR} --pool mean"
    assert f"Take layer {CLEAR}: 100.0 %" in result.text()


def test_cached_scores_are_not_evaluated_again(tmp_path: Path) -> None:
    encoder, task, config = ToyEncoder(), LightnessTask(), FeatureCache(directory=tmp_path)
    first = run_sweep(encoder, [task], config)
    again = run_sweep(encoder, [task], config)
    assert task.evaluated == [0, 1, 2, 3] and encoder.encoded == 20
    for one, other in zip(first.curves, again.curves, strict=True):
        assert all(
            one.scores[n].value == other.scores[n].value and (one.scores[n].draws == other.scores[n].draws).all()
            for n in range(4)
        )
    run_sweep(encoder, [replace(task, digest="d2")], config)
    assert task.evaluated == [0, 1, 2, 3] * 2 and encoder.encoded == 20


def test_some_layers(tmp_path: Path) -> None:
    config = FeatureCache(directory=tmp_path)
    assert list(run_sweep(ToyEncoder(), [LightnessTask()], config, [-1, 1]).curves[0].scores) == [1, 3]
    curve = run_sweep(ToyEncoder(), [LightnessTask()], config, [CLEAR]).curves[0]
    assert list(curve.scores) == [CLEAR, 3] and curve.last == 3  # the output is always evaluated
    assert "at the last layer, 3;" in recommend(curve).text()
    for layer in (4, -5):
        with pytest.raises(ConfigError, match=f"layer {layer} does not exist; toy has layers 0 to 3"):
            run_sweep(ToyEncoder(), [LightnessTask()], config, [layer])


def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    class BrokenTask(LightnessTask):
        def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
            scores = ResampledScores.of("likeness", float("nan"), np.ones(1000), ["a", "b"])
            return Measurement(task="broken", method="mean", scores=(scores,))

    with pytest.raises(ModelError, match="likeness of layer 0 of toy is not finite"):
        run_sweep(ToyEncoder(), [BrokenTask()], FeatureCache(directory=tmp_path))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    images, masks = discs()
    for name in ("one", "two"):
        write_video(tmp_path / "videos" / f"{name}.tar", images, masks)
    return tmp_path / "videos"


def test_tracking_over_layers_is_that_of_the_evaluator(videos: Path, tmp_path: Path) -> None:
    task, encoder = TrackingEvaluator(read_videos(videos), SHORT_SIDE), ToyEncoder()
    sweep = run_sweep(encoder, [task], FeatureCache(directory=tmp_path / "store", dtype="float32"))
    assert [curve.metric for curve in sweep.curves] == ["J&F", "J", "F"] and sweep.curves[0].pool == "tokens"
    assert sweep.curves[0].best == CLEAR and sweep.images == 12
    for layer in (0, CLEAR):
        (measurement,) = TrackingEvaluator(read_videos(videos), SHORT_SIDE).run(encoder.at(layer))
        values = [curve.scores[layer].value for curve in sweep.curves]
        assert values == pytest.approx([metric.value for metric in measurement.metrics], abs=1e-6)


def test_a_video_that_cannot_be_decoded_whole_is_left_out_and_reported(videos: Path, tmp_path: Path) -> None:
    one, two = read_videos(videos)
    bad_frame = replace(one, frames=(one.frames[0], b"cut", *one.frames[2:]))
    task = TrackingEvaluator([bad_frame, two], SHORT_SIDE)
    sweep = run_sweep(ToyEncoder(), [task], FeatureCache(directory=tmp_path / "store"), [CLEAR])
    assert sweep.curves[0].scores[CLEAR].n == 1 and [f.source for f in sweep.failures] == ["one/frame 1"]
    bad_mask = replace(two, masks=(two.masks[0], b"cut", *two.masks[2:]))
    task = TrackingEvaluator([one, bad_mask], SHORT_SIDE)
    sweep = run_sweep(ToyEncoder(), [task], FeatureCache(directory=tmp_path / "store"), [CLEAR])
    assert sweep.curves[0].scores[CLEAR].n == 1 and [f.source for f in sweep.failures] == ["two/mask 1"]
    assert isinstance(sweep.failures[0], MediaDecodeError)
    neither = TrackingEvaluator([replace(one, frames=(b"cut",) * len(one.frames))], SHORT_SIDE)
    with pytest.raises(DataError, match="tracking: no video can be evaluated; the first: one/frame 0"):
        run_sweep(ToyEncoder(), [neither], FeatureCache(directory=tmp_path / "store"), [CLEAR])


def squares(count: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return images of a light square on a dark floor, (16, 16, 3), and their masks, bool (16, 16)."""
    rng = np.random.default_rng(seed)
    images, masks = [], []
    for _ in range(count):
        mask = np.zeros((16, 16), bool)
        top, left = 4 * rng.integers(0, 3, 2)
        mask[top : top + 8, left : left + 8] = True
        images.append(np.where(mask[..., None], (200, 210, 190), (60, 40, 50)).astype(np.uint8))
        masks.append(mask)
    return images, masks


def agrees(curves: Sequence[LayerCurve], layer: int, measurement: Measurement) -> None:
    """Check that the sweep's scores at a layer are the evaluator's."""
    values = {curve.metric: curve.scores[layer].value for curve in curves}
    assert values == pytest.approx({metric.name: metric.value for metric in measurement.metrics}, abs=1e-5)


def depth_images(seed: int, broken: bool = False, far: bool = False) -> DepthImages:
    images, masks = squares(10, seed)
    depths = [png(np.where(mask, 1000, 3000).astype(np.uint16)) for mask in masks]
    keys = tuple(f"{seed}-{row}" for row in range(10))
    depths[0] = b"cut" if broken else png(np.full((16, 16), 60_000, np.uint16)) if far else depths[0]
    return DepthImages(name="squares", keys=keys, images=tuple(map(png, images)), depths=tuple(depths))


def test_depth_over_layers_is_that_of_the_evaluator(tmp_path: Path) -> None:
    parts, protocol = (
        (depth_images(0, broken=True), depth_images(1, far=True)),
        DepthProtocol(head=DepthConfig(channels=8, fit=FIT)),
    )
    store, encoder = FeatureCache(directory=tmp_path / "store", dtype="float32"), ToyEncoder()
    sweep = run_sweep(encoder, [DepthEvaluator(*parts, protocol)], store, [0, CLEAR])
    curve = sweep.curves[0]
    assert curve.metric == "RMSE" and curve.lower_is_better and curve.best == CLEAR and curve.unit == "m"
    assert [failure.source for failure in sweep.failures] == ["0-0 (depth)", "1-0"] and curve.scores[0].n == 9
    (measurement,) = DepthEvaluator(*parts, protocol).run(encoder.at(CLEAR))
    agrees(sweep.curves, CLEAR, measurement)


def test_colours_alone_are_a_layer(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "one.tar", *discs())
    encoder, store = ColourFeatures(ToyEncoder()), FeatureCache(directory=tmp_path / "store")
    task = TrackingEvaluator(read_videos(tmp_path / "videos"), short_side=48)
    sweep = run_sweep(encoder, [task], store)
    assert sweep.model == "colours" and sweep.curves[0].scores[0].value > 0.7


def test_another_layer_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"layers are \[1\]; colours has only layer 0"):
        ColourFeatures(ToyEncoder()).encode_layers([plain(0)], [1])
