"""Interest scores by a forest, categories, and a varied selection without near-duplicates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import DataError
from perception_encoder.video_dataset.selection import (
    CATEGORIES,
    categorise_videos,
    read_hand_scores,
    score_videos,
    select_videos,
)
from tests.video_dataset.models import NumberEncoder, table_of


def data(count: int = 150) -> tuple[np.ndarray, np.ndarray]:
    """Ten features, of which the third decides the score."""
    values = np.random.default_rng(0).normal(size=(count, 10))
    return values, np.clip(2.5 + 1.5 * values[:, 2], 0, 5)


NOISE = np.random.default_rng(7).normal(size=(150, 2))


def test_scores_are_learned() -> None:
    values, truth = data()
    table = table_of(NOISE, values)
    hand = {f"train/{n}": float(truth[n]) for n in range(100)}
    scores, report = score_videos(table, hand)
    assert np.corrcoef(scores[100:], truth[100:])[0, 1] > 0.9
    assert report.videos == 100 and report.rank_correlation > 0.9 and 0.7 < report.explained < 1
    assert report.mean_error < 0.4 * np.abs(truth[:100] - truth[:100].mean()).mean()
    assert next(iter(report.importances)) == "motion_2" and sum(report.importances.values()) == pytest.approx(1)
    assert np.array_equal(score_videos(table, hand)[0], scores)
    assert json.loads(json.dumps(report.to_dict()))["error"] == "out of bag"


def test_the_error_is_out_of_bag() -> None:
    """On noise, a forest that is evaluated on its own training data would look good."""
    values, _ = data()
    noise = np.random.default_rng(5).uniform(0, 5, 150)
    _, report = score_videos(table_of(NOISE, values), {f"train/{n}": float(noise[n]) for n in range(150)})
    assert report.explained < 0.1 and abs(report.rank_correlation) < 0.25


def test_too_few_or_unknown_hand_scores() -> None:
    table = table_of(np.ones((30, 2)))
    with pytest.raises(DataError, match="10 hand scores; a forest needs at least 20"):
        score_videos(table, {f"train/{n}": 1.0 for n in range(10)})
    with pytest.raises(DataError, match="1 of 1 hand scores are of videos without features, such as train/99"):
        score_videos(table, {"train/99": 1.0})


@pytest.mark.parametrize("row", ["train/a,6", "train/a,-1", "train/a,good", "train/a,", "train/a,1\ntrain/a,2"])
def test_hand_scores_that_are_none(tmp_path: Path, row: str) -> None:
    path = tmp_path / "scores.csv"
    path.write_text(f"key,score\n{row}\n")
    with pytest.raises(DataError, match=r"must be from 0 to 5|occurs twice"):
        read_hand_scores(path)


class AxisEncoder(NumberEncoder):
    """Encodes each category's descriptions near one axis."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        axes = {text: n for n, category in enumerate(CATEGORIES.values()) for text in category}
        rows = [np.eye(10)[axes[text.removeprefix("a video of ")]] for text in texts]
        return np.array(rows, np.float32)


def test_the_nearest_category_is_taken() -> None:
    between = np.eye(10)[6] + np.eye(10)[5]
    table = table_of(np.array([*(np.eye(10)[[6, 0, 5]] + 0.01), between]))
    *(first, second, third), (_, uncertain) = categorise_videos(table, AxisEncoder())
    assert [name for name, _ in (first, second, third)] == ["Water Scenes", "Hand Actions", "Animals"]
    assert first[1] > 0.99 and 0.45 < uncertain < 0.55


def clusters(count: int = 4, each: int = 5, spread: float = 0.2) -> np.ndarray:
    """Embeddings (count · each, 16) around the axes."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.eye(16)[n] + spread * rng.normal(size=(each, 16)) for n in range(count)])


def test_the_best_of_each_cluster_come_first() -> None:
    table, scores = table_of(clusters()), np.arange(20) % 5 / 1.0
    chosen = select_videos(table, scores, 8, clusters=4)
    assert [video.rank for video in chosen] == [0] * 4 + [1] * 4
    assert [video.score for video in chosen] == [4] * 4 + [3] * 4
    assert {video.key for video in chosen[:4]} == {"train/4", "train/9", "train/14", "train/19"}
    assert len({video.cluster for video in chosen[:4]}) == 4
    assert chosen == select_videos(table, scores, 8, clusters=4)


def test_near_duplicates_are_left_out() -> None:
    embeddings = clusters(2, 2, 0.2)
    embeddings = np.concatenate([embeddings, embeddings + 1e-3, embeddings[:1]])
    chosen = select_videos(table_of(embeddings), np.arange(9.0), 9, clusters=2)
    assert len(chosen) == 4
    assert max(chosen, key=lambda video: video.score).key == "train/8"  # the better copy
