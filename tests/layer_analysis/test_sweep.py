"""The sweep finds the best layer, caches scores; colours alone are one layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.layer_analysis.sweep import ColourFeatures, recommend, run_sweep
from tests.evaluation.layers import discs, write_video
from tests.layer_analysis.toys import CLEAR, LightnessTask, ToyEncoder, named, plain

SHORT_SIDE = 48


def test_the_clear_layer_is_best(tmp_path: Path) -> None:
    sweep = run_sweep(ToyEncoder(), named(LightnessTask(broken=(3,))), FeatureCache(directory=tmp_path))
    curve = sweep.curves[0]
    assert [item.metric for item in sweep.curves] == ["likeness", "mean"] and list(curve.scores) == [0, 1, 2, 3]
    assert curve.best == CLEAR and curve.last == 3 and curve.scores[CLEAR].value == pytest.approx(1, abs=1e-3)
    assert sweep.images == 20 and [str(failure) for failure in sweep.failures] == ["grey 3: is cut"]
    result = recommend(curve)
    assert result.is_real and result.command == f"--layer {CLEAR} --pool mean"
    assert f"Take layer {CLEAR}: 100.0 %" in result.text()


def test_cached_scores_are_not_evaluated_again(tmp_path: Path) -> None:
    encoder, task, config = ToyEncoder(), LightnessTask(), FeatureCache(directory=tmp_path)
    first = run_sweep(encoder, named(task), config)
    again = run_sweep(encoder, named(task), config)
    assert task.evaluated == [0, 1, 2, 3] and encoder.encoded == 20
    for one, other in zip(first.curves, again.curves, strict=True):
        assert all(
            one.scores[n].value == other.scores[n].value and (one.scores[n].draws == other.scores[n].draws).all()
            for n in range(4)
        )
    run_sweep(encoder, named(replace(task, digest="d2")), config)
    assert task.evaluated == [0, 1, 2, 3] * 2 and encoder.encoded == 20


def test_some_layers(tmp_path: Path) -> None:
    config = FeatureCache(directory=tmp_path)
    assert list(run_sweep(ToyEncoder(), named(LightnessTask()), config, [-1, 1]).curves[0].scores) == [1, 3]
    curve = run_sweep(ToyEncoder(), named(LightnessTask()), config, [CLEAR]).curves[0]
    assert list(curve.scores) == [CLEAR, 3] and curve.last == 3  # the output is always evaluated
    assert "at the last layer, 3;" in recommend(curve).text()
    for layer in (4, -5):
        with pytest.raises(ConfigError, match=f"layer {layer} does not exist; toy has layers 0 to 3"):
            run_sweep(ToyEncoder(), named(LightnessTask()), config, [layer])


def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    class BrokenTask(LightnessTask):
        def score(self, features: Iterable[CachedTokens]) -> Iterator[Score]:
            yield Score(name="likeness", value=float("nan"), n=2)

    with pytest.raises(ModelError, match="likeness of layer 0 of toy is not finite"):
        run_sweep(ToyEncoder(), named(BrokenTask()), FeatureCache(directory=tmp_path))


def test_colours_alone_are_a_layer(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "one.tar", *discs())
    encoder, store = ColourFeatures(ToyEncoder()), FeatureCache(directory=tmp_path / "store")
    task = TrackingEvaluator(read_videos(tmp_path / "videos"), short_side=48)
    sweep = run_sweep(encoder, {"tracking": task}, store)
    assert sweep.model == "colours" and sweep.curves[0].scores[0].value > 0.7


def test_another_layer_does_not_exist() -> None:
    with pytest.raises(ConfigError, match=r"layers are \[1\]; colours has only layer 0"):
        ColourFeatures(ToyEncoder()).encode_layers([plain(0)], [1])
