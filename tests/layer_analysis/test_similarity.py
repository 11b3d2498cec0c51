"""CKA and RSA agree with direct formulas and known cases; intervals cover; the report has them for all models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import spearmanr

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.layer_analysis import report as analysis
from perception_encoder.layer_analysis import similarity
from perception_encoder.layer_analysis.report import analyse, write_report
from perception_encoder.layer_analysis.similarity import cka, compare_grams, gram, rsa
from tests.layer_analysis.conftest import Load
from tests.layer_analysis.toys import CLEAR, DEPTH, LightnessTask, named, toy_layers


def normal(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def grams(*features: np.ndarray) -> np.ndarray:
    return np.stack([gram(feature) for feature in features])


def unbiased_hsic(one: np.ndarray, other: np.ndarray) -> float:
    """Song et al. (2012), equation 5."""
    n = len(one)
    k, m = one @ one.T, other @ other.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    middle = k.sum() * m.sum() / ((n - 1) * (n - 2))
    return float((np.trace(k @ m) + middle - 2 * (k @ m).sum() / (n - 2)) / (n * (n - 3)))


def test_both_agree_with_direct_formulas() -> None:
    one = normal(30, 8, 0) + 5  # a mean far from zero
    other = np.tanh(one @ normal(8, 20, 1)) + 0.5 * normal(30, 20, 2)
    direct = unbiased_hsic(one.astype(float), other.astype(float))
    direct /= np.sqrt(unbiased_hsic(one.astype(float), one.astype(float)))
    direct /= np.sqrt(unbiased_hsic(other.astype(float), other.astype(float)))
    found = cka(grams(one, other))
    assert found[0, 1] == pytest.approx(direct, abs=1e-4) and 0.1 < direct < 0.95
    assert rsa(grams(one, other))[0, 1] == pytest.approx(spearmanr(pdist(one), pdist(other)).statistic, abs=1e-4)


def test_known_cases() -> None:
    one = normal(200, 16, 0) * np.linspace(0.2, 2, 16, dtype=np.float32)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
    wide = normal(200, 1000, 2)  # unrelated, with more dimensions than images
    same_of_all = np.repeat(one[:1], 200, axis=0)
    same_of_all[::2] = np.nextafter(same_of_all[::2], np.float32(np.inf))  # but for rounding
    measures = compare_grams(grams(one, 7 * one @ rotation + 3, wide, same_of_all))
    for found in measures.values():
        same = np.ix_([0, 1], [0, 1])
        np.testing.assert_allclose([found.value[same], found.low[same], found.high[same]], 1, atol=1e-4)
        assert abs(found.value[0, 2]) < 0.1 and found.low[0, 2] < 0 < found.high[0, 2]
        assert not found.value[3].any()
        np.testing.assert_allclose(found.value, found.value.T, atol=1e-5)
    centred = [features - features.mean(axis=0) for features in (normal(200, 1000, 3), wide)]
    plain = [np.linalg.norm(a.T @ b) for a, b in zip((centred[0], *centred), (centred[1], *centred), strict=True)]
    assert plain[0] ** 2 / (plain[1] * plain[2]) > 0.7  # what the debiased one avoids


def test_intervals_cover_the_population_s_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CKA of two Gaussians is the squared norm of their covariance over the norms of their own."""
    monkeypatch.setattr(similarity, "DRAWS", 60)
    own, shared, covered, widths = 0.7, 0.5, 0, []
    for seed in range(40):
        common, one, other = (normal(80, 4, 3 * seed + part) for part in range(3))
        pair = [np.sqrt(own) * part + np.sqrt(shared) * common for part in (one, other)]
        found = compare_grams(grams(*pair))["cka"]
        covered += found.low[0, 1] <= (shared / (own + shared)) ** 2 <= found.high[0, 1]
        widths.append(found.high[0, 1] - found.low[0, 1])
    assert covered >= 34 and np.mean(widths) < 0.4


def test_the_report_compares_all_models_on_images_that_all_can_use(tmp_path: Path, load: Load) -> None:
    pytest.importorskip("matplotlib")
    load(toy_layers(), toy_layers(name="<other>", scale=3.0, weights="w2"))
    task, cache = LightnessTask(count=40, broken=(3, 5)), FeatureCache(directory=tmp_path)
    report = analyse(["toy", "<other>"], named(task), cache, [0, CLEAR], similarity=True)
    assert [pair.models for pair in report.similarities] == [("toy", "toy"), ("toy", "<other>"), ("<other>", "<other>")]
    for pair in report.similarities:
        assert pair.images == 38 and pair.layers == ((0, CLEAR, DEPTH - 1),) * 2
        for found in (pair.cka, pair.rsa):  # the models differ in scale and in float16's rounding only
            np.testing.assert_allclose(np.diagonal(found.value), 1, atol=0.01)
            assert found.value[0, 1] < 0.9 and (found.low <= found.high).all() and found.widest > 0.05
    page, _, _, data = write_report(report, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert "Similarity of layers" in text and "toy and &lt;other&gt;, 38 images; the widest interval is ±0." in text
    first, second, _ = json.loads(data.read_text(encoding="utf-8"))["similarity"]
    assert first["models"] == ["toy", "toy"] and second["layers"] == [[0, CLEAR, DEPTH - 1]] * 2
    for end in ("value", "low", "high"):
        np.testing.assert_allclose(second["rsa"][end], getattr(report.similarities[1].rsa, end), atol=1e-4)
    plain = analyse(["toy"], named(task), cache, None)
    assert plain.similarities == () and json.loads(analysis.report_json(plain))["similarity"] == []
    assert "Similarity of layers" not in "".join(analysis.report_page(plain))


def test_too_few_images_are_noted_and_many_are_thinned(
    tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(toy_layers())
    cache = FeatureCache(directory=tmp_path)
    report = analyse(["toy"], named(LightnessTask(count=22, broken=(1, 2, 3))), cache, None, similarity=True)
    assert report.similarities == ()
    assert "the similarity of layers needs 20 images or videos, and there are 19" in report.notes
    monkeypatch.setattr(similarity, "IMAGES", 25)
    report = analyse(["toy"], named(LightnessTask(count=100)), cache, None, similarity=True)
    assert report.similarities[0].images == 25


def test_frames_of_videos_are_not_compared(tmp_path: Path, load: Load) -> None:
    load(toy_layers())
    videos, cache = LightnessTask(count=40, name="tracking"), FeatureCache(directory=tmp_path)
    with pytest.raises(ConfigError, match="similarity needs a task on images"):
        analyse(["toy"], named(videos), cache, [0], similarity=True)
    report = analyse(["toy"], named(videos, LightnessTask(count=30)), cache, [0], similarity=True)
    assert report.similarities[0].images == 30
