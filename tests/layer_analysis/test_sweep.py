"""Sweeps: the layer that is best is found, what is known is not measured again, and recommendations are plain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError, ModelError
from perception_encoder.layer_analysis.layer_task import LayerFeatures, LayerScore
from perception_encoder.layer_analysis.recommendation import recommend
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import LayerCurve, run_sweep
from tests.layer_analysis.toys import CLEAR, LightnessTask, ToyEncoder


def test_the_clear_layer_is_best(tmp_path: Path) -> None:
    task = LightnessTask(broken=(3,))
    found = run_sweep(ToyEncoder(), [task], StoreConfig(folder=tmp_path))
    curve = found.curves[0]
    assert [each.figure for each in found.curves] == ["likeness", "mean"] and list(curve.scores) == [0, 1, 2, 3]
    assert curve.best == CLEAR and curve.last == 3 and curve.scores[CLEAR].value == pytest.approx(1, abs=1e-3)
    assert found.pictures == 20 and [str(failure) for failure in found.failures] == ["grey 3: is cut"]
    said = recommend(curve)
    assert (
        said.is_real
        and said.command == f"--layer {CLEAR} --pool mean"
        and f"Take layer {CLEAR}: 100.0 %" in said.text()
    )


def test_what_is_known_is_not_measured_again(tmp_path: Path) -> None:
    encoder, task, config = ToyEncoder(), LightnessTask(), StoreConfig(folder=tmp_path)
    first = run_sweep(encoder, [task], config)
    again = run_sweep(encoder, [task], config)
    assert task.measured == [0, 1, 2, 3] and encoder.seen == 20
    for one, other in zip(first.curves, again.curves, strict=True):
        assert all(
            one.scores[n].value == other.scores[n].value and (one.scores[n].drawn == other.scores[n].drawn).all()
            for n in range(4)
        )
    run_sweep(encoder, [replace(task, digest="d2")], config)
    assert task.measured == [0, 1, 2, 3] * 2 and encoder.seen == 20


def test_some_layers(tmp_path: Path) -> None:
    found = run_sweep(ToyEncoder(), [LightnessTask()], StoreConfig(folder=tmp_path), [-1, 1])
    assert list(found.curves[0].scores) == [1, 3]
    found = run_sweep(ToyEncoder(), [LightnessTask()], StoreConfig(folder=tmp_path), [CLEAR])
    assert list(found.curves[0].scores) == [CLEAR, 3] and found.curves[0].last == 3  # the output is always measured
    assert "at the last layer, 3;" in recommend(found.curves[0]).text()
    for layer in (4, -5):
        with pytest.raises(ConfigError, match=f"layer {layer} does not exist; toy has layers 0 to 3"):
            run_sweep(ToyEncoder(), [LightnessTask()], StoreConfig(folder=tmp_path), [layer])


def test_a_figure_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    class BrokenTask(LightnessTask):
        def measure(self, features: list[LayerFeatures]) -> tuple[LayerScore, ...]:
            return tuple(replace(score, value=float("nan")) for score in super().measure(features))

    with pytest.raises(ModelError, match="likeness of layer 0 of toy is not a number"):
        run_sweep(ToyEncoder(), [BrokenTask()], StoreConfig(folder=tmp_path))


def curve(
    values: list[float],
    spread: float,
    lower: bool = False,
    unit: str = "%",
    blocks: int = 100,
    by_seed: tuple[float, ...] = (),
) -> LayerCurve:
    """A curve whose layers' draws scatter by `spread`, each by itself."""
    rng = np.random.default_rng(0)
    scores = {
        layer: LayerScore(
            name="accuracy",
            value=value,
            n=100,
            drawn=value + spread * rng.normal(size=1000),
            blocks=blocks,
            by_seed=tuple(value + each for each in by_seed),
            pool="tokens",
            unit=unit,
            lower_is_better=lower,
        )
        for layer, value in enumerate(values)
    }
    return LayerCurve(model="m", task="t", figure="accuracy", depth=len(values), scores=scores)


def test_an_advantage_within_the_noise_is_none() -> None:
    said = recommend(curve([0.50, 0.54, 0.52, 0.53], spread=0.02))
    assert said.best == 1 and not said.is_real and said.layer == 3 and said.command == "--layer 3 --pool tokens"
    assert (
        said.text().startswith("The last layer, 3, will do: 53.0 %.")
        and said.gain.interval[0] < 0 < said.gain.interval[1]
    )


def test_the_interval_pays_for_the_choice_of_the_best_of_many() -> None:
    rng = np.random.default_rng(1)
    real = 0
    for _ in range(100):  # layers that do not differ, each measured on as many items of its own
        made = curve(list(0.5 + 0.02 * rng.normal(size=24)), spread=0.02)
        real += recommend(made).is_real
    assert real / 100 <= 0.08


def test_a_small_error_is_a_good_one() -> None:
    said = recommend(curve([0.9, 0.3, 0.31, 0.8], spread=0.01, lower=True, unit="m"))
    assert said.best == 1 and said.is_real and said.gain.value == pytest.approx(0.5) and said.as_good == (2,)
    assert "Take layer 1: 0.300 m against 0.800 m" in said.text() and "0.500 m better" in said.text()
    assert "Layer 2 cannot be told from it" in said.text()


def test_the_last_layer_may_be_the_best() -> None:
    said = recommend(curve([0.2, 0.4, 0.6], spread=0.01))
    assert said.layer == 2 and not said.is_real and said.text() == "Take the last layer, 2: 60.0 %; no other is better."


def test_one_sequence_or_one_head_seed_shows_nothing() -> None:
    for said in (
        recommend(curve([0.3, 0.9, 0.2, 0.5], spread=0.01, blocks=1)),
        recommend(curve([0.3, 0.9, 0.2, 0.5], spread=0.01, by_seed=(0.0,))),
    ):
        assert said.gain.interval is None and not said.is_real and said.layer == 3 and said.as_good == (0, 2, 3)
        assert "without an interval (one block, or one seed of a head) this shows nothing" in said.text()


def test_a_gap_within_what_head_seeds_do_is_not_recommended() -> None:
    """As that of depth of rooms: 0.021 with one seed, and 0.003 and 0.008 with the next two."""
    made = curve([0.201, 0.18], spread=0.0005)
    assert recommend(made).is_real and recommend(made).layer == 0  # over items alone
    gaps = (0.021, 0.003, 0.008)
    scores = {
        0: replace(made.scores[0], value=0.18 + sum(gaps) / 3, by_seed=tuple(0.18 + gap for gap in gaps)),
        1: replace(made.scores[1], by_seed=(0.18, 0.18, 0.18)),
    }
    said = recommend(replace(made, scores=scores))
    assert said.best == 0 and said.gain.value == pytest.approx(sum(gaps) / 3) and not said.is_real
    assert said.as_good == (1,)
