"""Select varied videos: k-means, the top-ranked of each cluster, and no near-duplicates (section 2.3, A.2, step 5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from perception_encoder.errors import ConfigError, DataError, MissingExtraError
from perception_encoder.video_dataset.features import FeatureTable
from perception_encoder.video_dataset.outcomes import read_outcomes

DUPLICATE = 0.97
"""Cosine similarity from which two videos count as near-duplicates."""
_RANDOM_STARTS = 3


@dataclass(frozen=True)
class SelectedVideo:
    """One video of a selection."""

    key: str
    cluster: int
    rank: int
    """In its cluster, 0 is the best; near-duplicates of better ones are not counted."""
    score: float


def select_videos(
    features: FeatureTable,
    scores: np.ndarray,
    count: int,
    clusters: int | None = None,
    duplicate: float = DUPLICATE,
    seed: int = 0,
) -> list[SelectedVideo]:
    """Return up to `count` videos, the best of all clusters first, then the second of all, and so on.

    `scores`: (n,); `clusters`: by default half of `count`, so that each gives about two. Fewer come out if
    near-duplicates leave fewer. Raises ConfigError for settings out of range.
    """
    if not 1 <= count <= len(features):
        raise ConfigError(f"{count} videos to select; there are {len(features)}")
    clusters = clusters if clusters is not None else max(1, count // 2)
    if not 1 <= clusters <= len(features):
        raise ConfigError(f"{clusters} clusters; it must be from 1 to {len(features)}, the number of videos")
    if not 0 < duplicate <= 1:
        raise ConfigError(f"the similarity of duplicates is {duplicate:g}; it must be above 0 and at most 1")
    labels = _cluster(features.embeddings, clusters, seed)
    ranked = [_rank(features, scores, np.flatnonzero(labels == cluster), duplicate) for cluster in range(clusters)]
    chosen = [
        SelectedVideo(features.keys[row], cluster, rank, float(scores[row]))
        for cluster, rows in enumerate(ranked)
        for rank, row in enumerate(rows)
    ]
    chosen.sort(key=lambda video: (video.rank, -video.score, video.key))
    return _without_duplicates(chosen, features, duplicate)[:count]


def align_scores(features: FeatureTable, path: Path) -> np.ndarray:
    """Read a table of scores in the order of the features, (n,); DataError if a video has none."""
    scores = read_outcomes(path, "score")
    missing = [key for key in features.keys if key not in scores]
    if missing:
        raise DataError(f"{path} has no score for {len(missing)} of {len(features)} videos, such as {missing[0]}")
    return np.array([float(scores[key]["score"]) for key in features.keys])


def _cluster(embeddings: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("sklearn", "eval") from None
    distinct = len(np.unique(embeddings, axis=0))  # with fewer, sklearn warns
    return KMeans(min(clusters, distinct), n_init=_RANDOM_STARTS, random_state=seed).fit_predict(embeddings)


def _rank(features: FeatureTable, scores: np.ndarray, rows: np.ndarray, duplicate: float) -> Sequence[int]:
    """The rows of a cluster, the best first, without near-duplicates of better ones."""
    order = sorted(rows.tolist(), key=lambda row: (-scores[row], features.keys[row]))
    ranked: list[int] = []
    for row in order:
        if not ranked or (features.embeddings[ranked] @ features.embeddings[row]).max() < duplicate:
            ranked.append(row)
    return ranked


def _without_duplicates(
    videos: Sequence[SelectedVideo], features: FeatureTable, duplicate: float
) -> list[SelectedVideo]:
    """Leave out the later one of two near-duplicates, across clusters too."""
    rows = {key: row for row, key in enumerate(features.keys)}
    chosen: list[SelectedVideo] = []
    used = np.zeros((0, features.embeddings.shape[1]), np.float32)
    for video in videos:
        embedding = features.embeddings[rows[video.key]]
        if not len(used) or (used @ embedding).max() < duplicate:
            chosen.append(video)
            used = np.concatenate([used, embedding[None]])
    return chosen
