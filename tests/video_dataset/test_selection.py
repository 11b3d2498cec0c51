"""A selection takes the best of every cluster, and no video twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from perception_encoder.errors import ConfigError, DataError
from perception_encoder.video_dataset.outcomes import write_outcomes
from perception_encoder.video_dataset.selection import align_scores, select_videos
from tests.video_dataset.tables import table_of


def clusters(count: int = 4, each: int = 5, spread: float = 0.1) -> np.ndarray:
    """Embeddings (count · each, 16) around the axes."""
    rng = np.random.default_rng(0)
    return np.concatenate([np.eye(16)[n] + spread * rng.normal(size=(each, 16)) for n in range(count)])


def test_the_best_of_each_cluster_come_first() -> None:
    table, scores = table_of(clusters()), np.arange(20) % 5 / 1.0
    chosen = select_videos(table, scores, 8, clusters=4, duplicate=1)
    assert [video.rank for video in chosen] == [0] * 4 + [1] * 4
    assert [video.score for video in chosen] == [4] * 4 + [3] * 4
    assert {video.key for video in chosen[:4]} == {"train/4", "train/9", "train/14", "train/19"}
    assert len({video.cluster for video in chosen[:4]}) == 4
    assert chosen == select_videos(table, scores, 8, clusters=4, duplicate=1)


def test_near_duplicates_are_left_out() -> None:
    embeddings = clusters(2, 2, 0.1)
    embeddings = np.concatenate([embeddings, embeddings + 1e-3, embeddings[:1]])
    chosen = select_videos(table_of(embeddings), np.arange(9.0), 9, clusters=2, duplicate=0.999)
    assert len(chosen) == 4
    assert max(chosen, key=lambda video: video.score).key == "train/8"  # the better copy


def test_near_duplicates_in_two_clusters_are_left_out() -> None:
    chosen = select_videos(table_of(np.ones((6, 3))), np.arange(6.0), 6, clusters=3)
    assert [video.key for video in chosen] == ["train/5"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "0 videos to select; there are 20"),
        ({"count": 21}, "21 videos to select"),
        ({"count": 5, "clusters": 0}, "0 clusters; it must be from 1 to 20"),
        ({"count": 5, "duplicate": 0}, "above 0 and at most 1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        select_videos(table_of(clusters()), np.zeros(20), **settings)


def test_scores_are_aligned_with_the_features(tmp_path: Path) -> None:
    write_outcomes(tmp_path / "s.csv", [{"key": f"train/{n}", "score": n / 2} for n in (2, 0, 1)])
    assert align_scores(table_of(np.eye(3)), tmp_path / "s.csv").tolist() == [0, 0.5, 1]
    with pytest.raises(DataError, match="has no score for 1 of 4 videos, such as train/3"):
        align_scores(table_of(np.eye(4)), tmp_path / "s.csv")
