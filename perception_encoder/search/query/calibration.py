"""Scores to probabilities, by what a model says of an index's own pictures: the chance that a hit shows what was asked.

An index has no labels, so the model itself stands in for them. Each picture is named out of a few hundred everyday
things (`background`), with a softmax at the model's own temperature, as it was trained. For the best hits of each of
these names, that gives both a cosine and a probability, and a logistic curve through them maps one to the other: two
numbers for each index. All texts of an index share the curve, so that it changes no ranking.

The model is its own judge here: no index can show that its probabilities are right. The built-in model knows too little
of images unlike those it was trained on, so an index of its has none. Whether anything matches is not said at all: the
chance of it by the best three hits was worse than a constant on two of six sets of photographs.

It is for hits of one text. What is like a picture is another question, to which the names gave no good answer when that
was tried, and vectors of several terms lie elsewhere: both have no probability.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import PerceptionEncoderError
from perception_encoder.files import remove, replacing, restrict
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.clip import CLIP
from perception_encoder.models.registry import BUILTIN, canonical_name
from perception_encoder.search.index.index import FOLDER, Index
from perception_encoder.search.query.background import BACKGROUND
from perception_encoder.search.query.query import Query

logger = logging.getLogger(__name__)

_FILE = "calibration.json"
_BEST = 3  # hits of a name that the curve goes through
_STEPS, _RIDGE = 100, 1e-6
_CHANGED = 0.1  # share of the rows that may come or go before the curve is drawn anew


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The curve of one index."""

    slope: float
    """How fast the odds change with the cosine; positive."""
    midpoint: float
    """The cosine at which one hit in two is right."""

    def probabilities(self, scores: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The chances that hits of these cosines show what was asked."""
        return _sigmoid(self.slope * (scores - self.midpoint))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(logits, -700, 700)))


def fit_calibration(
    batches: Iterable[Float[np.ndarray, "N D"]], names: Float[np.ndarray, "K D"], logit_scale: float
) -> Calibration | None:
    """The curve for pictures, whose unit vectors come in batches, by those of names that they could have.

    None where there are no pictures, or where the model's scores say nothing.
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
    """The curve of greatest likelihood, by Newton's method on standardised scores."""
    if not len(scores) or not np.ptp(scores) > 0:
        return None
    mean, deviation = scores.mean(), scores.std()
    inputs = np.stack([(scores - mean) / deviation, np.ones_like(scores)], axis=1)  # (n, 2)
    curve = np.zeros(2)
    for _ in range(_STEPS):
        fitted = _sigmoid(inputs @ curve)
        gradient = inputs.T @ (chances - fitted) / len(scores) - _RIDGE * curve
        curvature = (inputs.T * (fitted * (1 - fitted))) @ inputs / len(scores) + _RIDGE * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        curve = curve + step / max(1.0, np.abs(step).max())  # never so far that the curve is flat there
        if np.abs(step).max() < 1e-8:
            break
    slope = float(curve[0] / deviation)
    return Calibration(slope=slope, midpoint=float(mean - curve[1] / slope)) if slope > 0 else None


def renew_calibration(index: Index, encoder: Encoder) -> None:
    """Draw the curve of an index and store it there, where it has none or a tenth of its rows came or went.

    `index` is held for writing. The built-in model and one without a text tower have none. A failure is logged: an
    index is good without.
    """
    if not isinstance(encoder.model, CLIP) or is_builtin(index):
        return
    try:
        rows, stored = len(index), _read(index)
        if stored is not None and abs(rows - stored[1]) <= _CHANGED * stored[1]:
            return
        logit_scale = math.exp(float(encoder.model.logit_scale.detach()))
        found = fit_calibration(_vectors(index), encoder.encode_texts(BACKGROUND), logit_scale) if rows else None
        if found is None:
            remove(_path(index))
        else:
            told = {**asdict(found), "rows": rows, "weight_hash": index.settings["weight_hash"]}
            with replacing(_path(index), through_link=False) as temporary:
                temporary.write_text(json.dumps(told, indent=2), encoding="utf-8")
            restrict(index.folder / FOLDER, index.folder, index.root)
    except (OSError, ValueError, RuntimeError, PerceptionEncoderError) as error:
        reason = " ".join(str(error).split())[:200]
        logger.warning("the index of %s gives no probabilities: %s", index.folder, reason)


def _read(index: Index) -> tuple[Calibration, int] | None:
    """The stored curve of an index, and of how many rows; None where it is missing, damaged or of other weights."""
    try:
        told = json.loads(_path(index).read_text(encoding="utf-8"))
        found, rows = Calibration(slope=float(told["slope"]), midpoint=float(told["midpoint"])), int(told["rows"])
        usable = found.slope > 0 and math.isfinite(found.slope) and math.isfinite(found.midpoint)
        return (found, rows) if usable and told["weight_hash"] == index.settings["weight_hash"] else None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def find_calibration(index: Index, query: Query) -> Calibration | None:
    """The curve for a query's hits in an index; None where they have no probability (see above)."""
    stored = _read(index) if query.kind == "text" and not is_builtin(index) else None
    return None if stored is None else stored[0]


def is_builtin(index: Index) -> bool:
    """Whether an index is of the built-in model."""
    return canonical_name(str(index.settings.get("source", ""))) == BUILTIN


def _path(index: Index) -> Path:
    return index.folder / FOLDER / _FILE


def _vectors(index: Index) -> Iterator[Float[np.ndarray, "N D"]]:
    """All vectors of an index, some thousands at a time."""
    for batch in index.table.search().limit(None).select(["vector"]).to_batches():
        if batch.num_rows:
            yield batch["vector"].flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
