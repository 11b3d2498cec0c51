"""Probabilities of hits: curves by hand, the stored curve of an index, and their accuracy on real photographs."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.calibration import any_match
from perception_encoder.inference.encoder import Encoder
from perception_encoder.inference.load import load
from perception_encoder.models.checkpoints.find import locate_weights
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.models.registry import find_model
from perception_encoder.search.ranking import Hit, IndexGallery, query_vectors, rank
from perception_encoder.search.storage import calibration
from perception_encoder.search.storage.calibration import (
    Calibration,
    background_names,
    fit_calibration,
    read_calibration,
    renew_calibration,
)
from perception_encoder.search.storage.store import STORE, Store
from perception_encoder.search.terms import (
    Query,
    Term,
    media_query,
    parse_words,
    text_query,
)
from tests.search.indexes import make_index, update_folder


def find(encoder: Encoder, index: Store, queries: list[Query], top: int) -> list[list[Hit]]:
    return rank([IndexGallery(index)], queries, query_vectors(encoder, queries), top)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def noisy_images(classes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Images (count, D) of classes (K, D), each near one of them."""
    generator = np.random.default_rng(seed)
    images = classes[generator.integers(0, len(classes), count)]
    return unit(images + 0.05 * generator.standard_normal(images.shape))


@pytest.fixture
def classes() -> np.ndarray:
    return unit(np.random.default_rng(0).standard_normal((400, 256)))


def test_probabilities_by_hand() -> None:
    curve = Calibration(slope=10, midpoint=0.5)
    found = curve.probabilities(np.array([0.5, 0.6, 0.4, 1000.0, -1000.0]))
    np.testing.assert_allclose(found, [0.5, 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1)), 1, 0], atol=1e-12)


def test_a_curve_through_known_chances_is_found_again() -> None:
    scores = np.linspace(-0.2, 0.8, 500)
    expected = Calibration(slope=22, midpoint=0.31)
    found = calibration._fit_logistic(scores, expected.probabilities(scores))
    assert (found.slope, found.midpoint) == pytest.approx((22, 0.31), rel=1e-3)


def test_two_names_and_one_image_by_hand() -> None:
    picture, names = np.array([[1, 0]], np.float32), unit(np.array([[0.8, 0.6], [0.6, 0.8]]))
    found = fit_calibration([picture], names, logit_scale=10)  # chances 1 / (1 + e^∓2) at cosines of 0.8 and 0.6
    assert (found.slope, found.midpoint) == pytest.approx((2 * 2 / 0.2, 0.7), rel=1e-3)


def test_the_best_hits_of_each_name_count_and_nothing_else(classes: np.ndarray) -> None:
    names, pictures = classes, noisy_images(classes[:100], 500, seed=1)
    cosines = names @ pictures.T
    chances = np.exp(20 * cosines) / np.exp(20 * cosines).sum(axis=0)
    best = np.argsort(-cosines, axis=1)[:, :3]
    kept = (np.take_along_axis(values, best, axis=1).ravel().astype(float) for values in (cosines, chances))
    expected = calibration._fit_logistic(*kept)
    found = fit_calibration([pictures], names, 20)
    assert (found.slope, found.midpoint) == pytest.approx((expected.slope, expected.midpoint), rel=2e-3)


def test_what_is_there_is_probable_and_what_is_not_is_not(classes: np.ndarray) -> None:
    background, there, absent = classes[:300], classes[300:350], classes[350:]
    pictures = noisy_images(np.concatenate([background[:50], there]), 900, seed=2)
    curve = fit_calibration([pictures], background, 20)
    matched = [any_match(np.sort(curve.probabilities(some @ pictures.T), axis=1)[:, ::-1]) for some in (there, absent)]
    assert matched[0].min() > 0.9 and matched[1].max() < 0.25


@pytest.mark.parametrize("pictures", [np.empty((0, 256), np.float32), None])
def test_no_images_and_equal_scores_have_no_curve(classes: np.ndarray, pictures: np.ndarray | None) -> None:
    assert fit_calibration([] if pictures is None else [pictures], classes, 20) is None
    same = np.repeat(classes[:1], 5, axis=0)
    assert fit_calibration([classes[:1]], same, 20) is None


@pytest.fixture(scope="session")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in weights as somebody's own checkpoint, which may have a curve."""
    path = tmp_path_factory.mktemp("copied") / "own.safetensors"
    return Path(shutil.copy(locate_weights(find_model("builtin")), path))


@pytest.fixture(scope="session")
def builtin() -> Encoder:
    return load("builtin")


@pytest.fixture
def index(pictures: list[Path], copied: Path) -> Store:
    return make_index(pictures[0].parent, copied)


def stored(index: Store) -> Path:
    return index.directory / STORE / "calibration.json"


def test_hits_of_a_text_have_probabilities_and_others_none(
    builtin: Encoder, index: Store, pictures: list[Path]
) -> None:
    curve = read_calibration(index)
    several, like = parse_words(["a cat", "-", "a dog"]), Query(name="row", terms=(Term(source=index.rows()[0]),))
    queries = [text_query("a cat"), parse_words(["2:a cat"]), several, media_query(str(pictures[0])), like]
    found = find(builtin, index, queries, top=5)
    for hits in found[:2]:
        expected = curve.probabilities(np.array([hit.score for hit in hits]))
        assert [hit.probability for hit in hits] == pytest.approx(expected)
    assert {hit.probability for hits in found[2:] for hit in hits} == {None}


NO_CURVES = (
    *("", "{", "[]", "3", "{}", '{"slope": "steep"}'),
    '{"slope": NaN, "midpoint": 0, "contents": [], "weight_hash": "HASH"}',
    '{"slope": -1, "midpoint": 0, "contents": [], "weight_hash": "HASH"}',
    '{"slope": 1, "midpoint": Infinity, "contents": [], "weight_hash": "HASH"}',
    '{"slope": 1, "midpoint": 0, "contents": [], "weight_hash": "another"}',
    None,
)


def test_without_a_sound_curve_hits_have_none_until_the_next_update(
    builtin: Encoder, index: Store, copied: Path
) -> None:
    sound = stored(index).read_text()
    for text in NO_CURVES:
        stored(index).unlink()
        if text is not None:
            stored(index).write_text(text.replace("HASH", builtin.weight_hash))
        (hits,) = find(builtin, index, [text_query("a cat")], top=5)
        assert len(hits) == 5 and {hit.probability for hit in hits} == {None}, text
        make_index(index.directory, copied)
        assert json.loads(stored(index).read_text()) == json.loads(sound), text


def test_the_curve_is_drawn_anew_when_a_tenth_of_the_rows_changed(
    index: Store, copied: Path, draw: Callable[[int], object]
) -> None:
    sound = stored(index).read_text()
    for number, kept in ((20, True), (21, True), (22, False)):
        draw(number).save(index.directory / f"{number}.jpg")
        make_index(index.directory, copied)
        assert (stored(index).read_text() == sound) is kept


def test_the_curve_is_drawn_anew_for_other_images_of_the_same_names(
    index: Store, copied: Path, draw: Callable[[int], object]
) -> None:
    sound, names = stored(index).read_text(), sorted(index.directory.rglob("*.jpg"))
    draw(70).save(names[0])
    make_index(index.directory, copied)
    assert stored(index).read_text() == sound
    for number, path in enumerate(names):
        draw(80 + number).save(path)
    make_index(index.directory, copied)
    assert json.loads(stored(index).read_text())["midpoint"] != json.loads(sound)["midpoint"]


def test_the_curve_is_drawn_anew_for_shorter_vectors(builtin: Encoder, index: Store, copied: Path) -> None:
    before, short = read_calibration(index), builtin.cut(48)
    update_folder(index.directory, copied, rebuild=True, dimensions=48)
    found = read_calibration(Store.open(index.directory))
    vectors, names = short.encode_images(sorted(index.directory.rglob("*.jpg"))), background_names()
    assert short.logit_scale is not None and before is not None and found is not None
    expected = fit_calibration([vectors], short.encode_texts(names), short.logit_scale)
    assert expected is not None and found.midpoint != pytest.approx(before.midpoint, rel=0.1)
    assert (found.slope, found.midpoint) == pytest.approx((expected.slope, expected.midpoint), rel=0.05)


def test_an_update_does_not_fail_for_it(
    builtin: Encoder, index: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stored(index).unlink()
    monkeypatch.setattr(Encoder, "encode_texts", broken)
    with caplog.at_level(logging.WARNING):
        renew_calibration(index, builtin)
    assert "has no probabilities: no memory" in caplog.text and not stored(index).exists()


def broken(*_: object) -> None:
    raise RuntimeError("no memory")


def test_a_model_without_a_text_tower_has_none(index: Store) -> None:
    stored(index).unlink()
    renew_calibration(index, Encoder(create_model("PE-Spatial-T16-512"), "cpu", torch.float32))
    assert not stored(index).exists()


def test_an_index_of_the_built_in_model_has_none(pictures: list[Path]) -> None:
    assert not stored(make_index(pictures[0].parent, "builtin")).exists()


def test_an_empty_index_has_none(builtin: Encoder, copied: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    index = make_index(tmp_path / "empty", copied)
    assert len(index) == 0 and not stored(index).exists()
    assert find(builtin, index, [text_query("a cat")], top=5) == [[]]


def test_photographs_are_told_from_what_is_not_there(builtin: Encoder, real_data: Path) -> None:
    """Better than the best cosine at saying that nothing matches, and with probabilities that are borne out."""
    from benchmarks import calibration as benchmark

    images = benchmark.read_images(builtin, real_data / "photos", "val")
    rows = benchmark.draw_galleries(images, np.random.default_rng(1))[benchmark.MIXED][:5]
    names = [*sorted({*images.labels.tolist(), *images.coarse.tolist()}), *benchmark.FOREIGN]
    foreign = np.array([name in benchmark.FOREIGN for name in names])
    queries, background = builtin.encode_texts(names), builtin.encode_texts(background_names())
    scale = float(builtin.model.logit_scale.detach().exp())
    answers = [benchmark.search(queries, names, images.take(row), background, scale) for row in rows]
    scores = benchmark.summarize(answers, foreign, np.ones(len(names), bool), np.random.default_rng(0))["scores"]
    for against in benchmark.ABSENT:
        assert scores[f"{against}: difference"]["interval"][0] > 0
    assert scores[f"{benchmark.ABSENT[1]}: probability"]["value"] > 0.8
    for part in ("hits", "queries"):
        assert scores[f"{part}: Brier"]["value"] < scores[f"{part}: constant"]["value"]
        assert scores[f"{part}: error"]["value"] < 0.15
    assert scores["no match: precision"]["value"] > 0.75
