"""Depth: figures by hand, perfect features, noise, the real living room's files, and what cannot be measured."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.datasets.rgbd import DepthImages, read_depth_splits
from perception_encoder.dense_prediction.depth import DepthConfig, DepthHead, scale_invariant_loss
from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.errors import ConfigError, DataError, InputError, MediaDecodeError, ModelError
from perception_encoder.evaluation.dense import depth as evaluator
from perception_encoder.evaluation.dense.depth import (
    DepthEvaluator,
    DepthProtocol,
    depth_errors,
    score_depth,
    scored_pixels,
)
from perception_encoder.evaluation.layer_features import OneLayer
from perception_encoder.evaluation.statistics.scores import measure_all
from perception_encoder.formats.shards import write_members
from tests.evaluation.layers import ColourLayers, png

PROTOCOL = DepthProtocol(head=DepthConfig(channels=8, fit=FitConfig(epochs=20, batch=4, lr=1e-2)))


def stored(metres: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((metres * 1000).astype(np.uint16)).save(stream, "PNG")
    return stream.getvalue()


def rooms(count: int, seed: int) -> np.ndarray:
    """Depths (n, 24, 32) of a back wall and a box before it, in metres."""
    rng = np.random.default_rng(seed)
    depths = np.repeat(rng.uniform(3, 6, (count, 1, 1)), 24, axis=1).repeat(32, axis=2)
    for depth in depths:
        top, left = 4 * rng.integers(0, 4), 4 * rng.integers(0, 5)
        depth[top : top + 8, left : left + 12] = rng.uniform(1, 2.5)
    return depths.astype(np.float32)


def test_figures_by_hand() -> None:
    truth, guess = np.array([[2.0, 4.0, 0.0, 20.0]]), np.array([[1.0, 5.0, 3.0, 3.0]])
    found = depth_errors("a", guess, truth, DepthProtocol())  # unknown, and beyond 10 m, are left out
    assert found["RMSE"] == pytest.approx(1) and found["abs rel"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert [found[f"delta{n}"] for n in (1, 2, 3)] == [0, 0.5, 0.5]  # ratios 2 and 1.25; the bound is not within
    assert depth_errors("a", truth, truth, DepthProtocol())["delta1"] == 1


def test_the_eigen_crop_is_that_of_published_figures() -> None:
    truth = np.ones((480, 640), np.float32)
    guess = np.full((480, 640), 2, np.float32)
    guess[45:471, 41:601] = 1
    assert depth_errors("a", guess, truth, DepthProtocol(eigen_crop=True))["RMSE"] == 0
    guess[45, 41] = 2
    assert depth_errors("a", guess, truth, DepthProtocol(eigen_crop=True))["RMSE"] > 0


def test_an_aligned_guess_has_no_scale() -> None:
    truth, protocol = rooms(1, 0)[0], DepthProtocol(head=DepthConfig(channels=4).relative(), aligned=True)
    found = depth_errors("a", 7 * truth, truth, protocol)
    assert next(iter(found)) == "abs rel" and found["abs rel"] == pytest.approx(0, abs=1e-6) and found["delta1"] == 1
    assert depth_errors("a", 7 * truth, truth, DepthProtocol())["abs rel"] > 1
    by_hand = depth_errors("a", np.array([[1.0, 1, 2]]), np.array([[2.0, 2, 8]]), protocol)
    assert by_hand["abs rel"] == pytest.approx((0 + 0 + 0.5) / 3) and by_hand["RMSE"] == pytest.approx(np.sqrt(16 / 3))
    assert protocol.head.scale_invariance == 1 and scored_pixels("a", FAR, protocol).all()


def test_the_loss_forgives_a_common_error_in_scale() -> None:
    target = torch.tensor([[[1.0, 2.0, 0.0]]])
    twice = torch.log(2 * target.clamp_min(1e-3))
    strict, lenient = DepthConfig(scale_invariance=0.0), DepthConfig(scale_invariance=1.0)
    assert float(scale_invariant_loss(twice, target, strict)) == pytest.approx(np.log(2), abs=1e-3)
    assert float(scale_invariant_loss(twice, target, lenient)) == pytest.approx(1e-3, abs=1e-3)


def test_depth_as_features_is_learned_and_noise_is_not() -> None:
    train, test = rooms(24, 0), rooms(6, 1)
    keys = [f"p{number}" for number in range(6)]

    def maps(depths: np.ndarray) -> np.ndarray:
        return depths.reshape(-1, 6, 4, 8, 4).mean(axis=(2, 4))[..., None]

    def score(learned: np.ndarray, asked: np.ndarray) -> dict:
        found = score_depth(learned, train.__getitem__, asked, test.__getitem__, keys, PROTOCOL)
        return {metric.name: metric for metric in measure_all(found)}

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
    (found,) = DepthEvaluator(train, test, PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    failures = found.failures
    assert [failure.source for failure in failures] == ["00008 (depth)"]
    assert found.metrics[0].name == "RMSE" and found.metrics[0].n == 3 and found.settings["head seeds"] == "3"
    assert {metric.interval for metric in found.metrics} == {None}  # frames of one walk are one block
    assert len({each.values for each in found.scores if each.metric == "RMSE"}) == 3  # every seed fits another head
    with pytest.raises(ModelError, match="colours, layer 2"):
        DepthEvaluator(train, test, PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 2))


def pairs(name: str, depths: np.ndarray) -> DepthImages:
    """Depths in metres with pictures that are darker where it is near."""
    greys = [np.repeat((40 * depth).clip(0, 255).astype(np.uint8)[..., None], 3, axis=2) for depth in depths]
    keys = tuple(f"{name}{row}" for row in range(len(depths)))
    pictures, held = tuple(map(png, greys)), tuple(map(stored, depths))
    return DepthImages(name=name, keys=keys, images=pictures, depths=held)


@pytest.fixture
def unfitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head that is fitted all the same fails the test."""
    monkeypatch.setattr(evaluator, "fit_depth", lambda *_: pytest.fail("a head was fitted"))


FAR = np.full((24, 32), 30, np.float32)
FRAMED = np.pad(np.zeros((22, 32), np.float32), ((2, 0), (0, 0)), constant_values=2)  # above Eigen's crop alone


def test_pictures_without_known_depth_are_reported_and_left_out() -> None:
    train, test = rooms(6, 0), rooms(4, 1)
    train[2], test[1], test[3] = FAR, 0, FRAMED
    protocol = replace(PROTOCOL, eigen_crop=True)
    (found,) = DepthEvaluator(pairs("a", train), pairs("b", test), protocol).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    failures = found.failures
    assert [failure.source for failure in failures] == ["a2", "b1", "b3"] and "--per-metre" in failures[0].reason
    assert found.metrics[0].n == 2 and found.settings["train"] == "5" and found.settings["per metre"] == "1000"
    (found,) = DepthEvaluator(pairs("a", test), pairs("b", test), PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    failures = found.failures
    assert [failure.source for failure in failures] == ["a1", "b1"] and found.metrics[0].n == 3


def test_sets_without_known_depth_are_refused_before_a_head_is_fitted(unfitted: None) -> None:
    near, far = rooms(4, 0), FAR[None].repeat(4, axis=0)
    for train, test, name in ((far, near, "a"), (near, far, "b")):
        with pytest.raises(DataError, match=f"depth: no image can be used; the first: {name}0: no pixel has a known"):
            DepthEvaluator(pairs("a", train), pairs("b", test), PROTOCOL).run(OneLayer(ColourLayers(4, (24, 32)), 0))
    maps = np.zeros((4, 6, 8, 3))
    with pytest.raises(InputError, match="b: no pixel has a known depth"):
        score_depth(maps, near.__getitem__, maps[:2], (near[0], FAR).__getitem__, ["a", "b"], PROTOCOL)


def test_a_head_is_not_fitted_on_nothing() -> None:
    maps = np.zeros((2, 6, 8, 3))
    with pytest.raises(DataError, match=r"no training image has a depth of 0\.001 to 10 m"):
        score_depth(maps, (FAR, 0 * FAR).__getitem__, maps, rooms(2, 0).__getitem__, ["a", "b"], PROTOCOL)


def test_depths_that_are_mostly_out_of_range_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    depths, encoder = rooms(4, 0), ColourLayers(4, (24, 32))
    quick = DepthProtocol(head=DepthConfig(channels=4, fit=FitConfig(epochs=1, batch=4)))
    with caplog.at_level(logging.WARNING):
        DepthEvaluator(pairs("a", depths), pairs("b", depths), quick).run(OneLayer(encoder, 0))
        assert not caplog.text
        wrong = replace(pairs("b", depths), per_metre=200.0)
        DepthEvaluator(replace(pairs("a", depths), per_metre=200.0), wrong, quick).run(OneLayer(encoder, 0))
    assert "of the known depth is not within 0.001 to 10 m" in caplog.text and "200 units a metre" in caplog.text


def test_nyu_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for names in (("rgb_00045.jpg", "sync_depth_00045.png"), ("rgb/7.jpg", "depth/7.png")):
            for name, content in zip(names, (png(np.zeros((2, 2, 3), np.uint8)), stored(np.ones((2, 2)))), strict=True):
                path = tmp_path / split / "bathroom" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    train, _ = read_depth_splits(tmp_path)
    assert train.keys == ("bathroom/00045", "bathroom/7") and train.depth(1).tolist() == [[1, 1], [1, 1]]
    assert train.blocks == train.select([0, 1]).blocks == ("bathroom", "bathroom")
    (tmp_path / "test" / "bathroom" / "rgb_00046.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="1 images have no depth; the first is bathroom/00046"):
        read_depth_splits(tmp_path)


def test_images_of_one_sequence_are_one_block(tmp_path: Path) -> None:
    """A path without splits is a sequence, as TUM's rgb/ is; images of a split, rendered scenes say, are not."""
    members = [
        (f"{n}.{kind}", content)
        for n in range(5)
        for kind, content in (("jpg", png(np.zeros((2, 2, 3), np.uint8))), ("depth.png", stored(np.ones((2, 2)))))
    ]
    for name in ("walk.tar", "scenes/train.tar", "scenes/test.tar"):
        write_members(tmp_path / name, members)
    _, walk = read_depth_splits(tmp_path / "walk.tar")
    assert len(walk.keys) == 2 and len(set(walk.blocks)) == 1
    _, scenes = read_depth_splits(tmp_path / "scenes")
    assert scenes.blocks == scenes.keys and scenes.select([1, 3]).blocks == ("1", "3")
    for split in ("train", "test"):
        for name, content in (("rgb/7.jpg", members[0][1]), ("depth/7.png", members[1][1])):
            path = tmp_path / "tum" / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    assert read_depth_splits(tmp_path / "tum")[1].blocks == ("",)


def test_what_cannot_be_measured_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(DataError, match="there is no depth"):
        read_depth_splits(tmp_path)
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="has one of train and test"):
        read_depth_splits(tmp_path)
    one = DepthImages(name="n", keys=("m",), images=(b"",), depths=(png(np.zeros((2, 2), np.uint8)),))
    with pytest.raises(MediaDecodeError, match=r"m \(depth\): has the mode L"):
        one.depth(0)
    with pytest.raises(InputError, match=r"far: no pixel has a known depth of 0\.001 to 10 m"):
        depth_errors("far", np.ones((2, 2)), np.full((2, 2), 11.0), DepthProtocol())
    with pytest.raises(ConfigError, match="nearest"):
        DepthConfig(nearest=2.0, farthest=1.0)


def test_the_head_takes_any_grid() -> None:
    for grid in ((1, 1), (5, 7), (8, 8)):
        head = DepthHead(6, DepthConfig(channels=8))
        assert head.predict(torch.zeros(2, *grid, 6), (31, 17)).shape == (2, 31, 17)


def test_the_living_room(real_data: Path) -> None:
    train, test = read_depth_splits(real_data / "rgbd" / "livingroom.tar")
    assert (len(train.keys), len(test.keys)) == (30, 20)
    assert train.depth(0).shape == (240, 320) and 1 < float(train.depth(0).mean()) < 3
