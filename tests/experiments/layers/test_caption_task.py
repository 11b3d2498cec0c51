"""The similarity of images is ranked as that of their captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from experiments.layers.caption_task import CaptionTask, rank_agreement, read_caption_task
from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.errors import DataError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.layer_analysis.sweep import run_sweep
from perception_encoder.vectors import unit_rows
from tests.layer_analysis.toys import CLEAR, ToyEncoder

COLOURS = {"red": (230, 20, 20), "green": (20, 200, 30), "blue": (20, 40, 220)}


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    """Two dozen images of three colours, two captions each that name theirs; one cannot be decoded."""
    rng, texts = np.random.default_rng(0), {}
    for number in range(24):
        name = list(COLOURS)[number % 3]
        noisy = np.clip(rng.normal(COLOURS[name], 12, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(tmp_path / f"{number}.png")
        texts[f"{number}.png"] = [f"a {name} wall", f"{name} paint on it"]
    (tmp_path / "5.png").write_bytes(b"not an image")
    (tmp_path / "captions.json").write_text(json.dumps(texts), encoding="utf-8")
    return tmp_path / "captions.json"


def test_agreement_is_spearman_s_correlation_with_all_others() -> None:
    rng = np.random.default_rng(0)
    vectors = unit_rows(rng.normal(size=(9, 4)))
    similarity = rng.integers(0, 3, (9, 9)).astype(float)
    values = rank_agreement(vectors, similarity)
    for row in range(9):
        others = np.delete(np.arange(9), row)
        assert values[row] == pytest.approx(
            spearmanr(vectors[others] @ vectors[row], similarity[row, others]).statistic
        )
    by_hand = rank_agreement(
        unit_rows(np.array([[1.0, 0], [2, 1], [1, 3], [0, 1]])), np.array([[9, 3, 2, 1]] * 4) * 1.0
    )
    assert by_hand[0] == pytest.approx(1)


def test_the_layer_that_agrees_with_captions_is_best(captions: Path, tmp_path: Path) -> None:
    task = read_caption_task(captions, 100)
    sweep = run_sweep(ToyEncoder(), {"captions": task}, FeatureCache(directory=tmp_path / "store"))
    (curve,) = sweep.curves
    assert curve.metric == "rank correlation with captions" and curve.unit == "" and curve.best == CLEAR
    assert curve.scores[CLEAR].value > 0.7 > 0.3 > curve.scores[0].value and curve.scores[CLEAR].n == 23
    assert [failure.source for failure in sweep.failures] == ["5.png"]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (("a cat", "a cat"), "few has 2 images with captions; a ranking needs at least 3"),
        (("cat", "dog", "bird"), "few: no two images have a word in common"),
        (tuple(" ".join(f"word{row}x{n}" for n in range(7)) for row in range(9)), "few: no two images have a word"),
        (("the", "of", "and"), "few: empty vocabulary"),
    ],
)
def test_captions_that_cannot_be_ranked(texts: tuple[str, ...], message: str) -> None:
    keys = tuple(f"{n}.png" for n in range(len(texts)))
    with pytest.raises(DataError, match=message):
        CaptionTask(CaptionedMedia("few", keys, tuple(map(Path, keys)), texts, tuple(range(len(texts)))), 10)
