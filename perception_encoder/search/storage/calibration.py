"""Convert the scores of an index to probabilities with the model's own predictions on the indexed images.

An index has no labels, so each image is classified among everyday names (`background_names.txt`), with a softmax at the
model's trained temperature, and a logistic curve through the best hits of each name maps cosines to probabilities. All
texts share the curve, so it changes no ranking. Nothing guarantees that the probabilities are right: the built-in model
knows too little, so its indexes have no curve; nor have image queries, for which the names gave no good curve, and sums
of terms, which lie elsewhere in the space. That anything matches at all is not estimated: from the best three hits it
was worse than a constant on two of six photo collections.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import PerceptionEncoderError, one_line
from perception_encoder.files import remove, restrict, write_json
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.registry import BUILTIN, canonical_name
from perception_encoder.preprocess.source import escape_name
from perception_encoder.search.storage.store import CALIBRATION, STORE, Store

logger = logging.getLogger(__name__)

MATCH = 0.25
"""Minimum probability of a match: chosen in `benchmarks.calibration`, see docs/results/search_quality.md."""
_BEST = 3  # hits of a name that the curve is fitted to
_CHANGED = 0.1  # share of the rows that may come, go or change before the curve is fitted again
_SAMPLED = 256  # rows whose contents are compared


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The calibration curve of an index."""

    slope: float
    """Rate at which the odds change with the cosine; positive."""
    midpoint: float
    """The cosine at which half of the hits are right."""

    def probabilities(self, scores: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """Return the probabilities that hits with these cosines match the query."""
        return _sigmoid(self.slope * (scores - self.midpoint))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))


@cache
def background_names() -> tuple[str, ...]:
    """Return names of people, animals, plants, food, clothes, household objects, vehicles, scenes, weather and sports.

    A few hundred: with fewer names, one of them too often looks right for an image that shows none of them.
    """
    text = (files("perception_encoder.search.storage") / "background_names.txt").read_text(encoding="utf-8")
    return tuple(text.strip().replace("\n", ", ").split(", "))


def fit_calibration(
    batches: Iterable[Float[np.ndarray, "N D"]], names: Float[np.ndarray, "K D"], logit_scale: float
) -> Calibration | None:
    """Fit the curve to batches of image vectors and to the vectors of names.

    Returns None without images, or if all scores are equal.
    """
    scores = chances = np.empty((len(names), 0), np.float32)
    for vectors in batches:
        cosines = names @ vectors.T  # (K, N)
        weights = np.exp(logit_scale * (cosines - cosines.max(axis=0)))
        scores = np.concatenate([scores, cosines], axis=1)
        chances = np.concatenate([chances, weights / weights.sum(axis=0)], axis=1)
        best = np.argpartition(scores, -min(_BEST, scores.shape[1]), axis=1)[:, -_BEST:]
        scores, chances = (np.take_along_axis(values, best, axis=1) for values in (scores, chances))
    return _fit_logistic(scores.ravel().astype(np.float64), chances.ravel().astype(np.float64))


def _fit_logistic(scores: Float[np.ndarray, " n"], chances: Float[np.ndarray, " n"]) -> Calibration | None:
    """Fit the maximum-likelihood curve by Newton's method on standardised scores."""
    if not len(scores) or not np.ptp(scores) > 0:
        return None
    mean, deviation = scores.mean(), scores.std()
    inputs = np.stack([(scores - mean) / deviation, np.ones_like(scores)], axis=1)  # (n, 2)
    curve, ridge = np.zeros(2), 1e-6
    for _ in range(100):
        fitted = _sigmoid(inputs @ curve)
        gradient = inputs.T @ (chances - fitted) / len(scores) - ridge * curve
        curvature = (inputs.T * (fitted * (1 - fitted))) @ inputs / len(scores) + ridge * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        curve = curve + step / max(1.0, np.abs(step).max())  # never so far that the curve is flat there
        if np.abs(step).max() < 1e-8:
            break
    slope = float(curve[0] / deviation)
    return Calibration(slope=slope, midpoint=float(mean - curve[1] / slope)) if slope > 0 else None


def renew_calibration(index: Store, encoder: Encoder) -> None:
    """Fit and store the curve of an index if it has none or a tenth of its rows have changed since.

    `index` is locked for writing. The built-in model and models without a text tower have no curve. A failure is only
    logged: an index works without a curve.
    """
    if encoder.logit_scale is None or is_builtin(index):
        return
    try:
        sample, record = _sample_contents(index), _read(index)
        if record is not None and _share_of_others(sample, record[1]) <= _CHANGED:
            return
        names = encoder.encode_texts(background_names()) if sample else np.empty((0, encoder.dimension), np.float32)
        curve = fit_calibration(_vectors(index), names, encoder.logit_scale)
        if curve is None:
            remove(_path(index))
        else:
            content = {**asdict(curve), "contents": sample, "weight_hash": index.settings["weight_hash"]}
            write_json(_path(index), content)
            restrict(index.directory / STORE, index.directory, index.root)
    except (OSError, ValueError, RuntimeError, PerceptionEncoderError) as error:
        logger.warning("the index of %s has no probabilities: %s", escape_name(index.directory), one_line(error))


def read_calibration(index: Store) -> Calibration | None:
    """Return the curve of an index, or None if it has none."""
    record = _read(index)
    return None if record is None else record[0]


def _read(index: Store) -> tuple[Calibration, list[str]] | None:
    """Return the stored curve and the contents it was fitted to; None if damaged, missing or of other weights."""
    try:
        content = json.loads(_path(index).read_text(encoding="utf-8"))
        curve = Calibration(slope=float(content["slope"]), midpoint=float(content["midpoint"]))
        contents = [str(digest) for digest in content["contents"]]
        usable = curve.slope > 0 and math.isfinite(curve.slope) and math.isfinite(curve.midpoint)
        return (curve, contents) if usable and content["weight_hash"] == index.settings["weight_hash"] else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _sample_contents(index: Store) -> list[str]:
    """Return the rows with the smallest digests: a fixed random sample of the index's contents."""
    rows = index.table.search().limit(None).select(["digest", "start"]).to_arrow().sort_by("digest")
    return sorted(f"{row['digest']} {row['start']}" for row in rows.slice(0, _SAMPLED).to_pylist())


def _share_of_others(now: Sequence[str], before: Sequence[str]) -> float:
    """Return an estimate of the share of two samples' contents that only one of the indexes has."""
    union = sorted({*now, *before})[:_SAMPLED]
    return 1 - len({*now} & {*before} & {*union}) / max(1, len(union))


def is_builtin(index: Store) -> bool:
    """Return whether the built-in model made an index."""
    return canonical_name(str(index.settings.get("source", ""))) == BUILTIN


def _path(index: Store) -> Path:
    return index.directory / STORE / CALIBRATION


def _vectors(index: Store) -> Iterator[Float[np.ndarray, "N D"]]:
    """Yield all vectors of an index, some thousands at a time."""
    for batch in index.table.search().limit(None).select(["vector"]).to_batches():
        if batch.num_rows:
            yield batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
