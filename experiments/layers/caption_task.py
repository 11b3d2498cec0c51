"""Evaluate whether images with similar captions have similar features: without training, so a few dozen images suffice.

Representational similarity analysis (Kriegeskorte and others, 2008): for each image the others are ranked by the cosine
of a layer's means and by the cosine of their captions' words, weighted by how rare these are (TF-IDF); the score is
Spearman's correlation of the two. It is not one of the paper's tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from perception_encoder.datasets.captioned import CaptionedMedia, load_captions
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import DataError, MissingExtraError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import settings_digest
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.evaluation.statistics.bootstrap import contributions
from perception_encoder.evaluation.statistics.scores import ItemScores, Label, Score, measure_all
from perception_encoder.layer_analysis.tasks import LabelledTask
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import unit_rows

LEAST = 3
"""Images: there must be two others to rank."""


class CaptionTask(LabelledTask):
    """Rank correlation between the similarity of images and that of their captions."""

    def __init__(self, media: CaptionedMedia, items: int, image_size: tuple[int, int] | None = None) -> None:
        """Take at most `items` images, but three, at even intervals; DataError for fewer, and if none share a word."""
        texts = ["".join(f"{caption}\n" for caption in captions) for captions in media.captions]
        rows = spread_indices(len(texts), min(len(texts), max(items, LEAST)))
        self.labelled = LabelledImages(media.name, media.keys, media.media, tuple(texts)).select(rows)
        super().__init__("captions", {"test": self.labelled}, image_size)
        if len(rows) < LEAST:
            raise DataError(f"{media.name} has {len(rows)} images with captions; a ranking needs at least {LEAST}")
        _check_overlap(self.similarity, media.name)

    @cached_property
    def similarity(self) -> Float[np.ndarray, "n n"]:
        """The cosine of the captions' words."""
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError:
            raise MissingExtraError("scikit-learn", "eval") from None
        try:
            words = TfidfVectorizer(stop_words="english").fit_transform(self.labelled.labels)
        except ValueError as error:  # captions without words
            raise DataError(f"{self.labelled.name}: {error}") from error
        return np.asarray((words @ words.T).todense())

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        """Yield the mean rank correlation over the images, 1 if a layer ranks images as their captions do.

        Every image is ranked by all others: its interval is of what it contributes in both ways.
        """
        depends = settings_digest("jackknife", self.labelled.labels)
        yield from source.score(self.inputs, depends, self._score, track)

    def _score(self, features: Iterable[CachedTokens]) -> Iterator[Score]:
        (layer,) = features
        rows, name = layer.rows, self.labelled.name
        if len(rows) < LEAST:
            raise DataError(f"{name}: {len(rows)} images can be decoded, but {LEAST} are needed; {layer.failures[0]}")
        similarity = self.similarity[np.ix_(rows, rows)]
        _check_overlap(similarity, name)
        vectors = unit_rows(layer.mean())
        whole = float(rank_agreement(vectors, similarity).mean())
        values = contributions(whole, rank_agreement_without(vectors, similarity))
        keys = [self.labelled.keys[row] for row in rows]
        scores = (ItemScores.of("rank correlation with captions", values, keys, unit=""),)
        yield from measure_all(scores, Label(task=name, method="rank correlation", settings={"pool": "mean"}))


def _check_overlap(similarity: Float[np.ndarray, "n n"], name: str) -> None:
    if not similarity[~np.eye(len(similarity), dtype=bool)].any():
        raise DataError(f"{name}: no two images have a word in common, so they cannot be ranked")


def rank_agreement(vectors: Float[np.ndarray, "n D"], similarity: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Return, for each image, Spearman's correlation of its cosines to all others with its row of `similarity`.

    `vectors` are unit; cosines that agree to six digits are equal. 0 if one of the two is the same for all others.
    """
    others = ~np.eye(len(vectors), dtype=bool)
    return _correlate(_rank_others(vectors @ vectors.T), _rank_others(similarity), others)


def rank_agreement_without(
    vectors: Float[np.ndarray, "n D"], similarity: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, " n"]:
    """Return the mean of `rank_agreement` without each image in turn: what ranked after it moves up by one."""
    ranks, everyone = (_rank_others(vectors @ vectors.T), _rank_others(similarity)), np.arange(len(vectors))
    means = np.zeros(len(vectors))
    for row in everyone:
        one, other = (rank - (rank > rank[:, [row]]) - 0.5 * (rank == rank[:, [row]]) for rank in ranks)
        columns = ~np.eye(len(vectors), dtype=bool)
        columns[:, row] = False
        means[row] = _correlate(one, other, columns)[everyone != row].mean()
    return means


def _rank_others(values: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Return ranks from 1 in each row without the diagonal, of equal values their mean; 0 on the diagonal."""
    from scipy.stats import rankdata  # comes with scikit-learn, which computed the similarity

    others, ranks = ~np.eye(len(values), dtype=bool), np.zeros(values.shape)
    ranks[others] = rankdata(values[others].reshape(len(values), -1).round(6), axis=1).ravel()
    return ranks


def _correlate(
    one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"], columns: Bool[np.ndarray, "n n"]
) -> Float[np.ndarray, " n"]:
    """Return Pearson's correlation of each row's counted columns, 0 if either is constant."""
    count = columns.sum(axis=1, keepdims=True)
    a, b = (np.where(columns, item - (item * columns).sum(axis=1, keepdims=True) / count, 0) for item in (one, other))
    product, scale = (a * b).sum(axis=1), np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide(product, scale, out=np.zeros(len(one)), where=scale > 1e-9)


def read_caption_task(path: Path, items: int, image_size: tuple[int, int] | None = None) -> CaptionTask:
    """Read the task of a file of captions, its images in the same directory or below; errors as of `load_captions`.

    Images of a file in a directory `annotations`, as COCO's, are next to that directory.
    """
    directory = path.parent
    media = directory.parent if directory.name == "annotations" else directory
    return CaptionTask(load_captions(path, media), items, image_size)
