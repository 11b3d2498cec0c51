"""Select varied, interesting videos (section 2.3, A.2): an interest score, categories, k-means, no near-duplicates.

Hand scores go from 0 (one frame says it all) to 5 (several events); a random forest predicts those of the other videos.
Its error is out of bag: each scored video is predicted by the trees that were not fitted on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import ConfigError, DataError, MissingExtraError
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.tables import read_table
from perception_encoder.inference.encoder import Encoder
from perception_encoder.video_dataset.features import FeatureTable

TREES = 500
FRAME_COMPONENTS = 16
"""Number of principal components of frame embeddings; the embeddings would outweigh the other features."""
MIN_SCORES = 20
"""Minimum number of hand scores for a forest."""
MAX_SCORE = 5.0
DUPLICATE = 0.97
"""Minimum cosine similarity of near-duplicate videos."""
CATEGORIES: dict[str, tuple[str, ...]] = {
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
_PROMPT = "a video of {}"
_LOGIT_SCALE = 100.0
_RANDOM_STARTS = 3


@dataclass(frozen=True, kw_only=True)
class ForestReport:
    """Out-of-bag accuracy of a forest on the hand scores."""

    videos: int
    """Hand-scored ones."""
    mean_error: float
    """Mean absolute error."""
    baseline_error: float
    """Mean error if every prediction is the mean hand score."""
    explained: float
    """R²: 1 is perfect, 0 is no better than the mean."""
    rank_correlation: float
    """Spearman correlation of predictions and hand scores."""
    importances: dict[str, float]
    """Importances by feature, largest first, summing to 1; frame embeddings count as one feature."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields and the method as JSON values."""
        return {**vars(self), "error": "out of bag", "trees": TREES}


@dataclass(frozen=True)
class InterestScores:
    """Scores of all videos."""

    keys: tuple[str, ...]
    values: np.ndarray
    """(n,) float64, from 0 to 5; hand-scored videos have their out-of-bag prediction."""
    report: ForestReport


def read_hand_scores(path: Path) -> dict[str, float]:
    """Read a table with the columns `key` (SPLIT/KEY) and `score` (0 to 5); DataError for anything else."""
    scores: dict[str, float] = {}
    for number, row in enumerate(read_table(path), start=1):
        key, value = row.get("key"), row.get("score")
        try:
            score = float(value if value is not None else "")
        except (TypeError, ValueError):
            score = float("nan")
        if not isinstance(key, str) or not 0 <= score <= MAX_SCORE:
            cells = f"key {quoted(key)} and score {quoted(value)}"
            raise DataError(f"{path}: row {number} has {cells}; a score must be from 0 to 5")
        if key in scores:
            raise DataError(f"{path}: row {number}: {key} is scored twice")
        scores[key] = score
    return scores


def score_videos(features: FeatureTable, hand_scores: Mapping[str, float], seed: int = 0) -> InterestScores:
    """Fit a forest on the hand-scored videos and predict all. DataError for fewer than 20 scores or unknown keys."""
    try:
        from scipy.stats import spearmanr
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise MissingExtraError(error.name or "sklearn", "eval") from None
    rows = {key: row for row, key in enumerate(features.keys)}
    if unknown := [key for key in hand_scores if key not in rows]:
        share = f"{len(unknown)} of {len(hand_scores)} hand scores"
        raise DataError(f"{share} are of videos without features, such as {unknown[0]}")
    if len(hand_scores) < MIN_SCORES:
        needed = f"a forest needs at least {MIN_SCORES}, and the paper used about 1,000"
        raise DataError(f"{len(hand_scores)} hand scores; {needed}")
    scored = np.array([rows[key] for key in hand_scores])
    targets = np.array(list(hand_scores.values()))
    forest = RandomForestRegressor(TREES, oob_score=True, max_features=1 / 3, min_samples_leaf=2, random_state=seed)
    names, inputs = _reduce_frames(features, seed)
    forest.fit(inputs[scored], targets)
    values = forest.predict(inputs)
    values[scored] = out_of_bag = forest.oob_prediction_
    residual = float(((out_of_bag - targets) ** 2).sum())
    spread = float(((targets - targets.mean()) ** 2).sum())
    report = ForestReport(
        videos=len(hand_scores),
        mean_error=float(np.abs(out_of_bag - targets).mean()),
        baseline_error=float(np.abs(targets - targets.mean()).mean()),
        explained=1 - residual / spread if spread else 0.0,
        rank_correlation=float(spearmanr(out_of_bag, targets).statistic) if spread else 0.0,
        importances=group_importances(names, forest.feature_importances_),
    )
    return InterestScores(features.keys, values, report)


def _reduce_frames(features: FeatureTable, seed: int) -> tuple[list[str], np.ndarray]:
    """Replace frame embeddings by their principal components; return names and values."""
    from sklearn.decomposition import PCA

    of_frames = np.array([name.startswith("frame") for name in features.names])
    names = [name for name in features.names if not name.startswith("frame")]
    frames, others = features.values[:, of_frames], features.values[:, ~of_frames]
    count = min(FRAME_COMPONENTS, *frames.shape)
    if not count:
        return names, others
    components = PCA(count, random_state=seed).fit_transform(frames)
    return [*names, *(f"frames_{n}" for n in range(count))], np.concatenate([others, components], axis=1)


def group_importances(names: Sequence[str], importances: np.ndarray) -> dict[str, float]:
    """Add up the importances of the frames' components, and sort all."""
    groups: dict[str, float] = {}
    for name, value in zip(names, importances.tolist(), strict=True):
        group = name.partition("_")[0] if name.startswith("frame") else name
        groups[group] = groups.get(group, 0.0) + value
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class VideoCategory:
    """A video's category."""

    key: str
    category: str
    probability: float


def categorise_videos(features: FeatureTable, encoder: Encoder) -> list[VideoCategory]:
    """Return the most probable category of each video; `encoder` must be the one that computed the features."""
    prompts = [_PROMPT.format(text) for texts in CATEGORIES.values() for text in texts]
    embeddings = encoder.encode_texts(prompts)
    counts = np.cumsum([len(texts) for texts in CATEGORIES.values()])[:-1]
    means = np.stack([part.mean(axis=0) for part in np.split(embeddings, counts)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    logits = _LOGIT_SCALE * features.embeddings @ means.T  # (n, 10)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    names = list(CATEGORIES)
    return [
        VideoCategory(key, names[row.argmax()], float(row.max()))
        for key, row in zip(features.keys, shares, strict=True)
    ]


@dataclass(frozen=True)
class SelectedVideo:
    """One video of a selection."""

    key: str
    cluster: int
    rank: int
    """Rank in its cluster, 0 for the best, without near-duplicates of better videos."""
    score: float


def select_videos(
    features: FeatureTable,
    scores: np.ndarray,
    count: int,
    clusters: int | None = None,
    duplicate: float = DUPLICATE,
    seed: int = 0,
) -> list[SelectedVideo]:
    """Return up to `count` videos: the best of each cluster, then the second of each, and so on.

    `scores`: (n,); `clusters`: by default half of `count`, so that each gives about two; `duplicate`: cosine similarity
    from which the worse of two videos is left out, so that fewer than `count` may remain. Raises ConfigError for
    settings out of range.
    """
    if not 1 <= count <= len(features):
        raise ConfigError(f"count is {count}; it must be from 1 to {len(features)}, the number of videos")
    clusters = clusters if clusters is not None else max(1, count // 2)
    if not 1 <= clusters <= len(features):
        raise ConfigError(f"{clusters} clusters; it must be from 1 to {len(features)}, the number of videos")
    if not 0 < duplicate <= 1:
        raise ConfigError(f"the similarity of duplicates is {duplicate:g}; it must be above 0 and at most 1")
    labels = _cluster(features.embeddings, clusters, seed)
    candidates: list[tuple[int, SelectedVideo]] = []
    for cluster in range(clusters):
        members = np.flatnonzero(labels == cluster).tolist()
        members.sort(key=lambda row: (-scores[row], features.keys[row]))
        ranked = _without_duplicates(members, features, duplicate)
        candidates += [
            (row, SelectedVideo(features.keys[row], cluster, rank, float(scores[row])))
            for rank, row in enumerate(ranked)
        ]
    candidates.sort(key=lambda candidate: (candidate[1].rank, -candidate[1].score, candidate[1].key))
    videos = dict(candidates)
    return [videos[row] for row in _without_duplicates(list(videos), features, duplicate)][:count]


def _cluster(embeddings: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    try:
        from sklearn.cluster import KMeans
    except ImportError:
        raise MissingExtraError("sklearn", "eval") from None
    distinct = len(np.unique(embeddings, axis=0))  # with fewer, sklearn warns
    return KMeans(min(clusters, distinct), n_init=_RANDOM_STARTS, random_state=seed).fit_predict(embeddings)


def _without_duplicates(rows: Sequence[int], features: FeatureTable, duplicate: float) -> list[int]:
    """Return rows without near-duplicates of earlier ones."""
    chosen: list[int] = []
    for row in rows:
        if not chosen or (features.embeddings[chosen] @ features.embeddings[row]).max() < duplicate:
            chosen.append(row)
    return chosen
