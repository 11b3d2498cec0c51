"""Whether pictures that people describe alike lie near one another: no training, so a few dozen pictures will do.

Representational similarity analysis (Kriegeskorte and others, 2008): for each picture the others are ranked by the
cosine of a layer's means and by the cosine of their captions' words, weighted by how rare these are (TF-IDF); the
figure is Spearman's correlation of the two. Not one of the paper's tasks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from perception_encoder.datasets.captioned import CaptionedMedia, load_captions
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import DataError, InputError, MissingExtraError
from perception_encoder.evaluation.layer_features import LayerFeatures, LayerImages
from perception_encoder.evaluation.statistics.bootstrap import contributions
from perception_encoder.evaluation.statistics.scores import ItemScores
from perception_encoder.layer_analysis.labelled_tasks import layer_images, unit
from perception_encoder.layer_analysis.layer_task import LayerScore
from perception_encoder.models.protocols import LayerEncoder
from perception_encoder.preprocess.frames import spread_indices

LEAST = 3
"""Pictures, for there must be two others to rank."""


class CaptionTask:
    """How well a layer's likeness of pictures agrees with that of their captions."""

    name = "captions"
    failures: tuple[InputError, ...] = ()

    def __init__(self, media: CaptionedMedia, items: int) -> None:
        """At most `items` pictures, evenly apart, but three; DataError for fewer, and where no two share a word."""
        texts = [""] * len(media.keys)
        for caption, owner in zip(media.captions, media.owners, strict=True):
            texts[owner] += f"{caption}\n"
        rows = spread_indices(len(texts), min(len(texts), max(items, LEAST)))
        self.texts = tuple(texts[row] for row in rows)
        keys, sources = tuple(media.keys[row] for row in rows), tuple(media.media[row] for row in rows)
        self.labelled = LabelledImages(media.name, keys, sources, self.texts)
        if len(self.texts) < LEAST:
            raise DataError(f"{media.name} has {len(self.texts)} pictures with captions; it takes {LEAST} to rank them")
        _check_alike(self.likeness, media.name)

    @property
    def digest(self) -> str:
        """Of the captions."""
        return hashlib.sha256(repr(("jackknife", self.texts)).encode(errors="surrogatepass")).hexdigest()[:20]

    @cached_property
    def likeness(self) -> Float[np.ndarray, "n n"]:
        """The cosine of the captions' words."""
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError:
            raise MissingExtraError("scikit-learn", "eval") from None
        try:
            words = TfidfVectorizer(stop_words="english").fit_transform(self.texts)
        except ValueError as error:  # there are none
            raise DataError(f"{self.labelled.name}: {error}") from error
        return np.asarray((words @ words.T).todense())

    @cached_property
    def _images(self) -> LayerImages:
        return layer_images(self.labelled, f"{self.name}, test")

    def images(self, encoder: LayerEncoder) -> Sequence[LayerImages]:
        """The pictures; nothing is trained."""
        return (self._images,)

    def measure(self, features: Sequence[LayerFeatures]) -> tuple[LayerScore, ...]:
        """The mean rank correlation over the pictures, 1 where a layer sees the likeness that the captions have.

        Every picture is ranked by all others: its interval is of what it contributes in both ways.
        """
        rows = features[0].rows
        if len(rows) < LEAST:
            first = features[0].failures[0]
            raise DataError(f"{self.labelled.name}: {len(rows)} pictures can be decoded, it takes {LEAST}; {first}")
        likeness = self.likeness[np.ix_(rows, rows)]
        _check_alike(likeness, self.labelled.name)
        vectors = unit(features[0].mean())
        whole = float(rank_agreement(vectors, likeness).mean())
        values = contributions(whole, rank_agreement_without(vectors, likeness))
        names = [self.labelled.keys[row] for row in rows]
        return (LayerScore.of(ItemScores.of("rank correlation with captions", values, names, unit=""), "mean"),)


def _check_alike(likeness: Float[np.ndarray, "n n"], name: str) -> None:
    if not likeness[~np.eye(len(likeness), dtype=bool)].any():
        raise DataError(f"{name}: no two pictures have a word in common; nothing can be ranked")


def rank_agreement(vectors: Float[np.ndarray, "n D"], likeness: Float[np.ndarray, "n n"]) -> Float[np.ndarray, " n"]:
    """Spearman's correlation, for each picture, of its cosines to all others with its row of `likeness`.

    `vectors` are unit; cosines that agree to six digits are equal. 0 where one of the two says the same of all others:
    such a ranking knows nothing.
    """
    return _correlate(_rank_others(vectors @ vectors.T), _rank_others(likeness), ~np.eye(len(vectors), dtype=bool))


def rank_agreement_without(
    vectors: Float[np.ndarray, "n D"], likeness: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, " n"]:
    """The mean of `rank_agreement` where each of the pictures is not there: what ranked behind it moves up by one."""
    ranks, everyone = (_rank_others(vectors @ vectors.T), _rank_others(likeness)), np.arange(len(vectors))
    means = np.zeros(len(vectors))
    for gone in everyone:
        one, other = (each - (each > each[:, [gone]]) - 0.5 * (each == each[:, [gone]]) for each in ranks)
        kept = ~np.eye(len(vectors), dtype=bool)
        kept[:, gone] = False
        means[gone] = _correlate(one, other, kept)[everyone != gone].mean()
    return means


def _rank_others(values: Float[np.ndarray, "n n"]) -> Float[np.ndarray, "n n"]:
    """Ranks from 1 in each row without the diagonal, of equals their mean; 0 on the diagonal."""
    from scipy.stats import rankdata  # scikit-learn, which made `likeness`, brings it

    others, ranks = ~np.eye(len(values), dtype=bool), np.zeros(values.shape)
    ranks[others] = rankdata(values[others].reshape(len(values), -1).round(6), axis=1).ravel()
    return ranks


def _correlate(
    one: Float[np.ndarray, "n n"], other: Float[np.ndarray, "n n"], kept: Bool[np.ndarray, "n n"]
) -> Float[np.ndarray, " n"]:
    """Pearson's correlation of each row's kept columns, 0 where either is the same throughout."""
    count = kept.sum(axis=1, keepdims=True)
    a, b = (np.where(kept, each - (each * kept).sum(axis=1, keepdims=True) / count, 0) for each in (one, other))
    product, scale = (a * b).sum(axis=1), np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.divide(product, scale, out=np.zeros(len(one)), where=scale > 1e-9)


def load_caption_task(path: Path, items: int) -> CaptionTask:
    """The task of a file of captions, its pictures in the same folder or below it; errors as those of `load_captions`.

    Of a file in a folder `annotations`, as COCO's are, they are looked for beside that folder.
    """
    folder = path.parent
    return CaptionTask(load_captions(path, folder.parent if folder.name == "annotations" else folder), items)
