"""The sweep finds the best layer and caches scores; a layer is recommended only if it is shown to be better."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.masked_videos import read_videos
from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.evaluation.dense.tracking import TrackingEvaluator
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.layer_analysis.sweep import ColourTowers, LayerCurve, LayerScore, recommend, run_sweep
from tests.evaluation.layers import discs, write_video
from tests.layer_analysis.toys import CLEAR, LightnessTask, named, toy_layers

SHORT_SIDE = 48


def test_the_clear_layer_is_best(tmp_path: Path) -> None:
    sweep = run_sweep(toy_layers(), named(LightnessTask(broken=(3,))), FeatureCache(directory=tmp_path))
    curve = sweep.curves[0]
    assert [item.metric for item in sweep.curves] == ["likeness", "mean"] and list(curve.scores) == [0, 1, 2, 3]
    assert curve.best == CLEAR and curve.last == 3 and curve.scores[CLEAR].value == pytest.approx(1, abs=1e-3)
    assert sweep.images == 20 and [str(failure) for failure in sweep.failures] == ["grey 3: is cut"]
    result = recommend(curve)
    assert result.is_real and result.command == f"--layer {CLEAR} --pool mean"
    assert f"Take layer {CLEAR}: 100.0 %" in result.text()


def test_cached_scores_are_not_evaluated_again(tmp_path: Path) -> None:
    encoder, task, config = toy_layers(), LightnessTask(), FeatureCache(directory=tmp_path)
    first = run_sweep(encoder, named(task), config)
    again = run_sweep(encoder, named(task), config)
    assert task.evaluated == [0, 1, 2, 3] and encoder.towers.encoded == 20
    for one, other in zip(first.curves, again.curves, strict=True):
        assert all(one.scores[n].to_dict() == other.scores[n].to_dict() for n in range(4))
    run_sweep(encoder, named(replace(task, digest="d2")), config)
    assert task.evaluated == [0, 1, 2, 3] * 2 and encoder.towers.encoded == 20


def test_some_layers(tmp_path: Path) -> None:
    config = FeatureCache(directory=tmp_path)
    assert list(run_sweep(toy_layers(), named(LightnessTask()), config, [-1, 1]).curves[0].scores) == [1, 3]
    curve = run_sweep(toy_layers(), named(LightnessTask()), config, [CLEAR]).curves[0]
    assert list(curve.scores) == [CLEAR, 3] and curve.last == 3  # the output is always evaluated
    assert "at the last layer, 3;" in recommend(curve).text()
    for layer in (4, -5):
        with pytest.raises(ConfigError, match=f"layer {layer} does not exist; toy has layers 0 to 3"):
            run_sweep(toy_layers(), named(LightnessTask()), config, [layer])


def test_a_score_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    class BrokenTask(LightnessTask):
        def score(self, features: Iterable[CachedTokens]) -> Iterator[Score]:
            yield Score(name="likeness", value=float("nan"), n=2)

    with pytest.raises(ModelError, match="likeness of layer 0 of toy"):
        run_sweep(toy_layers(), named(BrokenTask()), FeatureCache(directory=tmp_path))


def test_colours_alone_are_a_layer(tmp_path: Path) -> None:
    write_video(tmp_path / "videos" / "one.tar", *discs())
    encoder, store = LayerFeatures(ColourTowers(toy_layers())), FeatureCache(directory=tmp_path / "store")
    task = TrackingEvaluator(read_videos(tmp_path / "videos"), short_side=48)
    sweep = run_sweep(encoder, {"tracking": task}, store)
    assert sweep.model == "colours" and sweep.curves[0].scores[0].value > 0.7


SCORE = LayerScore(name="RMSE", value=0.3, n=9, draws=np.array([0.25, 0.35]), blocks=3, by_seed=(0.2, 0.4), pool="mean")


def curve(
    values: list[float],
    spread: float,
    lower: bool = False,
    unit: str = "%",
    blocks: int = 100,
    by_seed: tuple[float, ...] = (),
) -> LayerCurve:
    """Return a curve whose layers' draws scatter by `spread`, independently."""
    rng = np.random.default_rng(0)
    scores = {
        layer: LayerScore(
            name="accuracy",
            value=value,
            n=100,
            draws=value + spread * rng.normal(size=1000),
            blocks=blocks,
            by_seed=tuple(value + item for item in by_seed),
            pool="tokens",
            unit=unit,
            lower_is_better=lower,
        )
        for layer, value in enumerate(values)
    }
    return LayerCurve(model="m", task="t", metric="accuracy", depth=len(values), scores=scores)


def test_an_advantage_within_the_noise_is_not_one() -> None:
    result = recommend(curve([0.50, 0.54, 0.52, 0.53], spread=0.02))
    assert result.best == 1 and not result.is_real
    assert result.layer == 3 and result.command == "--layer 3 --pool tokens"
    assert result.text().startswith("Take the last layer, 3: 53.0 %.")
    assert result.gain.interval[0] < 0 < result.gain.interval[1]


def test_the_interval_pays_for_the_choice_of_the_best_of_many() -> None:
    rng = np.random.default_rng(1)
    real = 0
    for _ in range(100):  # layers that do not differ, each evaluated on as many items of its own
        real += recommend(curve(list(0.5 + 0.02 * rng.normal(size=24)), spread=0.02)).is_real
    assert real / 100 <= 0.08


def test_a_small_error_is_a_good_one() -> None:
    result = recommend(curve([0.9, 0.3, 0.31, 0.8], spread=0.01, lower=True, unit="m"))
    assert result.best == 1 and result.is_real and result.gain.value == pytest.approx(0.5) and result.as_good == (2,)
    assert "Take layer 1: 0.300 m against 0.800 m" in result.text() and "0.500 m better" in result.text()
    assert "Layer 2 is not shown to be worse" in result.text()


def test_one_sequence_or_one_head_seed_shows_nothing() -> None:
    for result in (
        recommend(curve([0.3, 0.9, 0.2, 0.5], spread=0.01, blocks=1)),
        recommend(curve([0.3, 0.9, 0.2, 0.5], spread=0.01, by_seed=(0.0,))),
    ):
        assert result.gain.interval is None and not result.is_real
        assert result.layer == 3 and result.as_good == (0, 2, 3)
        assert "without an interval (one block, or one seed of a head) this shows nothing" in result.text()


def test_a_gap_within_what_head_seeds_do_is_not_recommended() -> None:
    """As that of depth of rooms: 0.021 with one seed, and 0.003 and 0.008 with the next two."""
    plain = curve([0.201, 0.18], spread=0.0005)
    assert recommend(plain).is_real and recommend(plain).layer == 0  # over items alone
    gaps = (0.021, 0.003, 0.008)
    scores = {
        0: replace(plain.scores[0], value=0.18 + sum(gaps) / 3, by_seed=tuple(0.18 + gap for gap in gaps)),
        1: replace(plain.scores[1], by_seed=(0.18, 0.18, 0.18)),
    }
    result = recommend(replace(plain, scores=scores))
    assert result.best == 0 and result.gain.value == pytest.approx(sum(gaps) / 3) and not result.is_real
    assert result.as_good == (1,)


def test_a_score_comes_back_from_json() -> None:
    read = LayerScore.from_dict(json.loads(json.dumps(SCORE.to_dict())))
    assert read.draws.tolist() == SCORE.draws.tolist() and replace(read, draws=SCORE.draws) == SCORE


def test_the_best_layer_is_the_earliest_of_the_best() -> None:
    scores = {layer: replace(SCORE, value=value) for layer, value in ((0, 0.3), (2, 0.5), (4, 0.5), (5, 0.1))}
    curve = LayerCurve(model="m", task="t", metric="RMSE", depth=6, scores=scores)
    assert (curve.best, curve.last, curve.unit, curve.pool) == (2, 5, "%", "mean")
    errors = {layer: replace(score, lower_is_better=True) for layer, score in scores.items()}
    assert replace(curve, scores=errors).best == 5
