"""Select varied, interesting videos (section 2.3, A.2): an interest score, categories, k-means, no near-duplicates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import DataError, needs_extra
from perception_encoder.formats.entries import quoted
from perception_encoder.inference.encoder import Encoder
from perception_encoder.vectors import label_probabilities, unit_rows
from perception_encoder.video_dataset.features import FeatureTable
from perception_encoder.video_dataset.tables import read_video_table

TREES = 500
FRAME_COMPONENTS = 16
"""Number of principal components of frame embeddings; the embeddings would outweigh the other features."""
MIN_SCORES = 20
"""Minimum number of hand scores for a forest."""
MAX_SCORE = 5.0
DUPLICATE = 0.97
"""Minimum cosine similarity of near-duplicate videos."""
CATEGORIES: dict[str, tuple[str, str]] = {
    "Hand Actions": ("hands doing something", "a close view of a person's hands at work"),
    "Object Interactions": ("objects that move and touch each other", "a person using an object or a machine"),
    "Food Preparation": ("food being prepared", "a person cooking in a kitchen"),
    "Work Activities": ("people at work", "a worker doing a job with tools"),
    "Outdoor Scenes": ("an outdoor scene", "a street or a field with people, outdoors"),
    "Animals": ("an animal", "animals moving around"),
    "Water Scenes": ("water", "the sea, a river or a lake with waves"),
    "Object Handling": ("a person holding an object", "an object that is turned and handled"),
    "Close-up Shots": ("a close-up of a small detail", "an extreme close-up of an object"),
    "Nature Scenes": ("a landscape in nature", "plants, trees and mountains"),
}
"""Categories of the PE Video Dataset with our descriptions; a category's embedding is their mean."""
_LOGIT_SCALE = 100.0


@dataclass(frozen=True, kw_only=True)
class ForestReport:
    """Out-of-bag accuracy of a forest on the hand scores."""

    videos: int
    """Hand-scored ones."""
    mean_error: float
    """Mean absolute error."""
    explained: float
    """R²: 1 is perfect, 0 is no better than the mean."""
    rank_correlation: float
    """Spearman correlation of predictions and hand scores."""
    importances: dict[str, float]
    """Importances by feature, largest first, summing to 1; frame embeddings count as one feature."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the method as JSON values."""
        return {**vars(self), "error": "out of bag", "trees": TREES}


def read_hand_scores(path: Path) -> dict[str, float]:
    """Read a table with the columns `key` (SPLIT/KEY) and `score` (0 to 5); DataError for anything else."""
    scores: dict[str, float] = {}
    for key, row in read_video_table(path).items():
        try:
            scores[key] = float(row["score"])
        except (TypeError, ValueError, KeyError):
            scores[key] = float("nan")
        if not 0 <= scores[key] <= MAX_SCORE:
            raise DataError(f"{path}: the score of {key} is {quoted(row.get('score'))}; it must be from 0 to 5")
    return scores


def score_videos(features: FeatureTable, hand_scores: Mapping[str, float]) -> tuple[np.ndarray, ForestReport]:
    """Fit a forest on the hand-scored videos; return the scores of all, (n,) float64 from 0 to 5, and its accuracy.

    Hand-scored videos have their out-of-bag prediction. DataError for fewer than 20 scores or unknown keys.
    """
    with needs_extra("eval"):
        from scipy.stats import spearmanr
        from sklearn.decomposition import PCA
        from sklearn.ensemble import RandomForestRegressor
        from sklearn.metrics import mean_absolute_error, r2_score
    rows = {key: row for row, key in enumerate(features.keys)}
    if unknown := [key for key in hand_scores if key not in rows]:
        share = f"{len(unknown)} of {len(hand_scores)} hand scores"
        raise DataError(f"{share} are of videos without features, such as {unknown[0]}")
    if len(hand_scores) < MIN_SCORES:
        needed = f"a forest needs at least {MIN_SCORES}, and the paper used about 1,000"
        raise DataError(f"{len(hand_scores)} hand scores; {needed}")
    scored = np.array([rows[key] for key in hand_scores])
    targets = np.array(list(hand_scores.values()))
    frames = features.frames.reshape(len(features), -1)
    components = PCA(min(FRAME_COMPONENTS, *frames.shape), random_state=0).fit_transform(frames)
    inputs = np.concatenate([features.values, components], axis=1)
    forest = RandomForestRegressor(TREES, oob_score=True, max_features=1 / 3, min_samples_leaf=2, random_state=0)
    forest.fit(inputs[scored], targets)
    values = forest.predict(inputs)
    values[scored] = out_of_bag = forest.oob_prediction_
    of_values, of_frames = np.split(forest.feature_importances_, [len(features.names)])
    importances = dict(zip(features.names, of_values.tolist(), strict=True)) | {"frames": float(of_frames.sum())}
    return values, ForestReport(
        videos=len(targets),
        mean_error=float(mean_absolute_error(targets, out_of_bag)),
        explained=float(r2_score(targets, out_of_bag)),
        rank_correlation=float(spearmanr(out_of_bag, targets).statistic) if np.ptp(targets) else 0.0,
        importances=dict(sorted(importances.items(), key=lambda item: -item[1])),
    )


def categorise_videos(features: FeatureTable, encoder: Encoder) -> list[tuple[str, float]]:
    """Return the most probable category of each video and its probability; `encoder` must be that of the features."""
    embeddings = encoder.encode_texts([f"a video of {text}" for texts in CATEGORIES.values() for text in texts])
    means, names = unit_rows(embeddings.reshape(len(CATEGORIES), 2, -1).mean(axis=1)), list(CATEGORIES)
    probabilities = label_probabilities(_LOGIT_SCALE * features.embeddings @ means.T, 1.0)  # (n, 10)
    return [(names[row.argmax()], float(row.max())) for row in probabilities]


@dataclass(frozen=True)
class SelectedVideo:
    """One video of a selection."""

    key: str
    cluster: int
    rank: int
    """Rank in its cluster, 0 for the best, without near-duplicates of better videos."""
    score: float


def select_videos(
    features: FeatureTable, scores: np.ndarray, count: int, clusters: int | None = None
) -> list[SelectedVideo]:
    """Return up to `count` videos: the best of each cluster by `scores` (n,), then the second of each, and so on.

    A near-duplicate of a better one is left out. There are half as many clusters as videos by default.
    """
    from sklearn.cluster import KMeans

    embeddings = features.embeddings
    distinct = len(np.unique(embeddings, axis=0))  # with fewer than clusters, sklearn warns
    clusters = min(clusters or max(1, count // 2), distinct)
    labels = KMeans(clusters, n_init=3, random_state=0).fit_predict(embeddings)
    candidates: list[tuple[int, float, str, int]] = []
    for cluster in range(clusters):
        members = np.flatnonzero(labels == cluster).tolist()
        members.sort(key=lambda row: (-scores[row], features.keys[row]))
        ranked = enumerate(_without_duplicates(members, embeddings))
        candidates += [(rank, -float(scores[row]), features.keys[row], row) for rank, row in ranked]
    candidates.sort()
    ranks = {row: rank for rank, _, _, row in candidates}
    return [
        SelectedVideo(features.keys[row], int(labels[row]), ranks[row], float(scores[row]))
        for row in _without_duplicates(list(ranks), embeddings)[:count]
    ]


def _without_duplicates(rows: Sequence[int], embeddings: np.ndarray) -> list[int]:
    chosen: list[int] = []
    for row in rows:
        if not chosen or (embeddings[chosen] @ embeddings[row]).max() < DUPLICATE:
            chosen.append(row)
    return chosen
