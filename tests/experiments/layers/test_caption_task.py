"""The similarity of images is ranked as that of their captions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from experiments.layers.caption_task import CaptionTask, rank_agreement, rank_agreement_without, read_caption_task
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


def test_agreement_without_an_image_is_that_of_the_others() -> None:
    rng = np.random.default_rng(0)
    vectors, similarity = unit_rows(rng.normal(size=(9, 4))), rng.integers(0, 3, (9, 9)).astype(float)
    vectors[2] = vectors[7]
    values = rank_agreement_without(vectors, similarity)
    for gone in range(9):
        rest = np.delete(np.arange(9), gone)
        assert values[gone] == pytest.approx(rank_agreement(vectors[rest], similarity[np.ix_(rest, rest)]).mean())


def test_a_layer_that_is_the_same_for_all_scores_zero() -> None:
    same = unit_rows(np.ones((6, 3), np.float32))
    assert rank_agreement(same, np.random.default_rng(0).random((6, 6))).tolist() == [0] * 6
    assert rank_agreement(unit_rows(np.random.default_rng(0).normal(size=(6, 3))), np.ones((6, 6))).tolist() == [0] * 6


def test_the_layer_that_agrees_with_captions_is_best(captions: Path, tmp_path: Path) -> None:
    task = read_caption_task(captions, 100)
    sweep = run_sweep(ToyEncoder(), {"captions": task}, FeatureCache(directory=tmp_path / "store"))
    (curve,) = sweep.curves
    assert curve.metric == "rank correlation with captions" and curve.unit == "" and curve.best == CLEAR
    assert curve.scores[CLEAR].value > 0.7 > 0.3 > curve.scores[0].value and curve.scores[CLEAR].n == 23
    assert [failure.source for failure in sweep.failures] == ["5.png"]


def test_images_are_taken_at_even_intervals(captions: Path) -> None:
    task = read_caption_task(captions, 4)
    assert isinstance(task, CaptionTask) and task.labelled.keys == ("0.png", "8.png", "15.png", "23.png")


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


def test_images_next_to_the_annotations_directory(captions: Path, tmp_path: Path) -> None:
    (tmp_path / "annotations").mkdir()
    moved = captions.rename(tmp_path / "annotations" / "captions.json")
    task = read_caption_task(moved, 2)
    assert isinstance(task, CaptionTask) and len(task.labelled.keys) == 3
    task.inputs[0].open(0)


def test_the_cause_is_reported_if_nothing_can_be_decoded(captions: Path, tmp_path: Path) -> None:
    for image in tmp_path.glob("*.png"):
        image.write_bytes(b"not an image")
    task = read_caption_task(captions, 10)
    with pytest.raises(DataError, match=r"0 images can be decoded, but 3 are needed; 0\.png: "):
        run_sweep(ToyEncoder(), {"captions": task}, FeatureCache(directory=tmp_path / "store"))


def test_a_path_without_captions(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"none.json holds no captions"):
        read_caption_task(tmp_path / "none.json", 10)
    with pytest.raises(DataError, match=r"is a directory without .*; give a captions file"):
        read_caption_task(tmp_path, 10)
