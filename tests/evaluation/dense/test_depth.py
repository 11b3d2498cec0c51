"""Depth: figures by hand, perfect features, noise, the real living room's files, and what cannot be measured."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.datasets.rgbd import read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.dense import depth as evaluator
from perception_encoder.evaluation.dense.depth import DepthEvaluator, DepthProtocol, depth_errors, scored_pixels
from perception_encoder.formats.shards import write_members
from tests.datasets.drawn import pairs, rooms, stored
from tests.evaluation.layers import Given, cached, colour_source, png

PROTOCOL = DepthProtocol(head=DepthConfig(channels=8, fit=FitConfig(epochs=20, batch=4, lr=1e-2)))


def test_results_by_hand() -> None:
    truth, guess = np.array([[2.0, 4.0, 0.0, 20.0]]), np.array([[1.0, 5.0, 3.0, 3.0]])
    result = depth_errors("a", guess, truth, DepthProtocol())  # unknown, and beyond 10 m, are left out
    assert result["RMSE"] == pytest.approx(1) and result["abs rel"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert [result[f"delta{n}"] for n in (1, 2, 3)] == [0, 0.5, 0.5]  # ratios 2 and 1.25; the bound is not within
    assert depth_errors("a", truth, truth, DepthProtocol())["delta1"] == 1
    holes = np.array([[2.0, 4.0, np.nan, np.inf]])
    assert depth_errors("a", guess, holes, DepthProtocol()) == result
    with pytest.raises(InputError, match="a: no pixel has a known depth"):
        depth_errors("a", guess, np.array([[0.0, np.nan, np.inf, 20.0]]), DepthProtocol())


def test_the_eigen_crop_is_that_of_published_results() -> None:
    truth = np.ones((480, 640), np.float32)
    guess = np.full((480, 640), 2, np.float32)
    guess[45:471, 41:601] = 1
    assert depth_errors("a", guess, truth, DepthProtocol(eigen_crop=True))["RMSE"] == 0
    guess[45, 41] = 2
    assert depth_errors("a", guess, truth, DepthProtocol(eigen_crop=True))["RMSE"] > 0


def test_an_aligned_guess_has_no_scale() -> None:
    truth, protocol = rooms(1, 0)[0], DepthProtocol(head=DepthConfig(channels=4).relative(), aligned=True)
    result = depth_errors("a", 7 * truth, truth, protocol)
    assert next(iter(result)) == "abs rel" and result["abs rel"] == pytest.approx(0, abs=1e-6) and result["delta1"] == 1
    assert depth_errors("a", 7 * truth, truth, DepthProtocol())["abs rel"] > 1
    by_hand = depth_errors("a", np.array([[1.0, 1, 2]]), np.array([[2.0, 2, 8]]), protocol)
    assert by_hand["abs rel"] == pytest.approx((0 + 0 + 0.5) / 3) and by_hand["RMSE"] == pytest.approx(np.sqrt(16 / 3))
    assert protocol.head.scale_invariance == 1 and scored_pixels("a", FAR, protocol).all()


def test_depth_as_features_is_learned_and_noise_is_not() -> None:
    train, test = rooms(24, 0), rooms(6, 1)

    def maps(depths: np.ndarray) -> np.ndarray:
        return depths.reshape(-1, 6, 4, 8, 4).mean(axis=(2, 4))[..., None]

    def score(learned: np.ndarray, asked: np.ndarray) -> dict:
        task = DepthEvaluator(pairs("a", train), pairs("b", test), PROTOCOL)
        return {score.name: score for score in task.run(Given(cached(learned), cached(asked)))}

    perfect = score(maps(train), maps(test))
    rng = np.random.default_rng(0)
    noise = score(rng.normal(size=(24, 6, 8, 4)), rng.normal(size=(6, 6, 8, 4)))
    constant = np.mean([depth_errors("", np.full((24, 32), train.mean()), d, PROTOCOL)["RMSE"] for d in test])
    assert perfect["RMSE"].value < constant / 4 < constant * 0.8 < noise["RMSE"].value
    assert perfect["delta1"].value > 0.98 and perfect["RMSE"].unit == "m" and perfect["RMSE"].lower_is_better
    assert not perfect["delta1"].lower_is_better


def test_a_set_without_splits_is_cut_and_what_is_broken_reported(tmp_path: Path) -> None:
    members = []
    for index, depth in enumerate(rooms(10, 0)):
        grey = np.repeat((40 * depth).astype(np.uint8)[..., None], 3, axis=2)
        depth_file = b"\x89PNG cut" if index == 8 else stored(depth)
        members += [(f"{index:05}.jpg", png(grey)), (f"{index:05}.depth.png", depth_file)]
    write_members(tmp_path / "room.tar", members)
    train, test = read_depth_splits(tmp_path / "room.tar")
    assert (train.keys[-1], test.keys[0]) == ("00005", "00006")
    assert train.depth(0) == pytest.approx(rooms(10, 0)[0], abs=1e-3)
    result = list(DepthEvaluator(train, test, PROTOCOL).run(colour_source()))
    assert [failure.source for failure in result[0].failures] == ["00008 (depth)"]
    assert result[0].name == "RMSE" and result[0].n == 3 and result[0].settings["head seeds"] == "3"
    assert {score.interval for score in result} == {None}  # frames of one walk are one block
    assert len({item.values for item in result[0].items}) == 3  # every seed fits another head


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that is fitted all the same fails the test."""
    monkeypatch.setattr(evaluator, "fit_depth", lambda *_: pytest.fail("a head was fitted"))


FAR = np.full((24, 32), 30, np.float32)
FRAMED = np.pad(np.zeros((22, 32), np.float32), ((2, 0), (0, 0)), constant_values=2)  # above Eigen's crop alone


def test_images_without_known_depth_are_reported_and_left_out() -> None:
    train, test = rooms(6, 0), rooms(4, 1)
    train[2], test[1], test[3] = FAR, 0, FRAMED
    protocol = replace(PROTOCOL, eigen_crop=True)
    first = next(DepthEvaluator(pairs("a", train), pairs("b", test), protocol).run(colour_source()))
    assert [failure.source for failure in first.failures] == ["a2", "b1", "b3"]
    assert "--per-metre" in first.failures[0].reason
    assert first.n == 2 and first.settings["train"] == "5" and first.settings["per metre"] == "1000"
    first = next(DepthEvaluator(pairs("a", test), pairs("b", test), PROTOCOL).run(colour_source()))
    assert [failure.source for failure in first.failures] == ["a1", "b1"] and first.n == 3


def test_sets_without_known_depth_are_refused_before_a_head_is_fitted(unfitted: None) -> None:
    near, far = rooms(4, 0), FAR[None].repeat(4, axis=0)
    for train, test, name in ((far, near, "a"), (near, far, "b")):
        with pytest.raises(DataError, match=f"depth: no image can be used; the first: {name}0: no pixel has a known"):
            list(DepthEvaluator(pairs("a", train), pairs("b", test), PROTOCOL).run(colour_source()))


def test_depths_that_are_mostly_out_of_range_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    depths = rooms(4, 0)
    quick = DepthProtocol(head=DepthConfig(channels=4, fit=FitConfig(epochs=1, batch=4)))
    with caplog.at_level(logging.WARNING):
        list(DepthEvaluator(pairs("a", depths), pairs("b", depths), quick).run(colour_source()))
        assert not caplog.text
        wrong = replace(pairs("b", depths), per_metre=200.0)
        list(DepthEvaluator(replace(pairs("a", depths), per_metre=200.0), wrong, quick).run(colour_source()))
    assert "of the known depth is not within 0.001 to 10 m" in caplog.text and "200 units a metre" in caplog.text
