"""The forest finds what hand scores depend on, says how well out of bag, and refuses scores that are none."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.video_dataset.interest import (
    group_importances,
    read_hand_scores,
    report_as_json,
    score_videos,
)
from tests.video_dataset.tables import table_of


def data(count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, of which the third decides the score."""
    values = np.random.default_rng(0).normal(size=(count, 10))
    return values, np.clip(2.5 + 1.5 * values[:, 2], 0, 5)


def test_scores_are_learned() -> None:
    values, truth = data()
    table = table_of(np.ones((150, 2)), values)
    hand = {f"train/{n}": float(truth[n]) for n in range(100)}
    scores = score_videos(table, hand, seed=1)
    report = scores.report
    assert np.corrcoef(scores.values[100:], truth[100:])[0, 1] > 0.9
    assert report.videos == 100 and report.rank_correlation > 0.9 and 0.7 < report.explained < 1
    assert report.mean_error < 0.4 * report.baseline_error
    assert next(iter(report.importances)) == "motion_2" and sum(report.importances.values()) == pytest.approx(1)
    again = score_videos(table, hand, seed=1)
    assert np.array_equal(again.values, scores.values)
    assert json.loads(json.dumps(report_as_json(report)))["error"] == "out of bag"


def test_the_error_is_out_of_bag() -> None:
    """On noise, a forest that is evaluated on its own training data would look good."""
    values, _ = data()
    noise = np.random.default_rng(5).uniform(0, 5, 150)
    hand = {f"train/{n}": float(noise[n]) for n in range(150)}
    report = score_videos(table_of(np.ones((150, 2)), values), hand).report
    assert report.explained < 0.1 and abs(report.rank_correlation) < 0.25


def test_importances_of_the_frames_are_added_up() -> None:
    names = ["motion_rate", "answer_x", "frames_0", "frames_1"]
    groups = group_importances(names, np.array([0.15, 0.35, 0.2, 0.3]))
    assert list(groups) == ["frames", "answer_x", "motion_rate"] and groups["frames"] == pytest.approx(0.5)


def test_long_embeddings_do_not_outnumber_the_rest() -> None:
    """One number tells the score, beside 1,800 of embeddings that do not."""
    rng = np.random.default_rng(3)
    truth = rng.uniform(0, 5, 150)
    values = np.concatenate([(truth + rng.normal(0, 0.5, 150))[:, None], rng.normal(size=(150, 1800))], axis=1)
    names = ("motion_rate", *(f"frame{n // 600}_{n % 600}" for n in range(1800)))
    table = dataclasses.replace(table_of(np.ones((150, 2)), values), names=names)
    report = score_videos(table, {f"train/{n}": float(truth[n]) for n in range(150)}).report
    assert set(report.importances) == {"motion_rate", "frames"}
    assert report.rank_correlation > 0.9 and report.importances["motion_rate"] > 0.55


def test_too_few_or_unknown_hand_scores() -> None:
    table = table_of(np.ones((30, 2)))
    with pytest.raises(DataError, match="10 hand scores; a forest needs at least 20"):
        score_videos(table, {f"train/{n}": 1.0 for n in range(10)})
    with pytest.raises(DataError, match="1 of 1 hand scores are of videos without features, such as train/99"):
        score_videos(table, {"train/99": 1.0})


def test_hand_scores_are_read(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("key,score\ntrain/a,0\ntrain/b,4.5\n")
    assert read_hand_scores(path) == {"train/a": 0, "train/b": 4.5}


@pytest.mark.parametrize("row", ["train/a,6", "train/a,-1", "train/a,good", "train/a,", "train/a,1\ntrain/a,2"])
def test_hand_scores_that_are_none(tmp_path: Path, row: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"key,score\n{row}\n")
    with pytest.raises(DataError, match=r"must be from 0 to 5|is scored twice"):
        read_hand_scores(path)
