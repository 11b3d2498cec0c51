"""An interest score for every video, by a random forest on hand scores (section 2.3, A.2, step 4).

Hand scores go from 0 (one frame says it all) to 5 (several events). The error is out of bag: each scored video is
predicted by the trees that were not fitted on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.tables import read_table
from perception_encoder.video_dataset.features import FeatureTable

TREES = 500
FRAME_COMPONENTS = 16
"""Principal components of the frames' embeddings, whose own numbers would outnumber all else."""
LEAST = 20
"""The fewest hand scores that a forest is fitted on."""
HIGHEST = 5.0


@dataclass(frozen=True, kw_only=True)
class ForestReport:
    """How well a forest predicts the hand scores, out of bag."""

    videos: int
    """Hand-scored ones."""
    mean_error: float
    """Mean absolute error."""
    baseline_error: float
    """That of the mean hand score for every video."""
    explained: float
    """R²: 1 is perfect, 0 as good as the mean."""
    rank_correlation: float
    """Spearman's, of predictions and hand scores."""
    importances: dict[str, float]
    """By feature, the largest first; those of the frames' embeddings are added up. They sum to 1."""


@dataclass(frozen=True)
class InterestScores:
    """Scores of all videos."""

    keys: tuple[str, ...]
    values: np.ndarray
    """(n,) float64, from 0 to 5; hand-scored videos have their prediction out of bag."""
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
        if not isinstance(key, str) or not 0 <= score <= HIGHEST:
            cells = f"key {quoted(key)} and score {quoted(value)}"
            raise DataError(f"{path}: row {number} has {cells}; a score must be from 0 to 5")
        if key in scores:
            raise DataError(f"{path}: row {number}: {key} is scored twice")
        scores[key] = score
    return scores


def score_videos(features: FeatureTable, hand: Mapping[str, float], seed: int = 0) -> InterestScores:
    """Fit a forest on the hand-scored videos and predict all. Raises DataError for fewer than 20, or unknown keys."""
    try:
        from scipy.stats import spearmanr
        from sklearn.ensemble import RandomForestRegressor
    except ImportError as error:
        raise MissingExtraError(error.name or "sklearn", "eval") from None
    rows = {key: row for row, key in enumerate(features.keys)}
    unknown = [key for key in hand if key not in rows]
    if unknown:
        share = f"{len(unknown)} of {len(hand)} hand scores"
        raise DataError(f"{share} are of videos without features, such as {unknown[0]}")
    if len(hand) < LEAST:
        raise DataError(f"{len(hand)} hand scores; a forest needs at least {LEAST}, and the paper used about 1,000")
    scored = np.array([rows[key] for key in hand])
    targets = np.array([hand[key] for key in hand])
    forest = RandomForestRegressor(TREES, oob_score=True, max_features=1 / 3, min_samples_leaf=2, random_state=seed)
    names, inputs = _reduce_frames(features, seed)
    forest.fit(inputs[scored], targets)
    values = forest.predict(inputs)
    out_of_bag = forest.oob_prediction_
    values[scored] = out_of_bag
    residual = float(((out_of_bag - targets) ** 2).sum())
    spread = float(((targets - targets.mean()) ** 2).sum())
    report = ForestReport(
        videos=len(hand),
        mean_error=float(np.abs(out_of_bag - targets).mean()),
        baseline_error=float(np.abs(targets - targets.mean()).mean()),
        explained=1 - residual / spread if spread else 0.0,
        rank_correlation=float(spearmanr(out_of_bag, targets).statistic) if spread else 0.0,
        importances=group_importances(names, forest.feature_importances_),
    )
    return InterestScores(features.keys, values, report)


def _reduce_frames(features: FeatureTable, seed: int) -> tuple[list[str], np.ndarray]:
    """Put principal components in place of the numbers of the frames' embeddings; return the names and the values."""
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
    """Add up the importances of the components of the frames' embeddings, and sort them."""
    groups: dict[str, float] = {}
    for name, value in zip(names, importances.tolist(), strict=True):
        group = name.partition("_")[0] if name.startswith("frame") else name
        groups[group] = groups.get(group, 0.0) + value
    return dict(sorted(groups.items(), key=lambda item: -item[1]))


def report_as_json(report: ForestReport) -> dict[str, Any]:
    """Return a report as it is written beside the scores."""
    return {**vars(report), "error": "out of bag", "trees": TREES}
