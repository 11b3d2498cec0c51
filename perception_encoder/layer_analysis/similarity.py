"""Compare layers, of one model or of two, by how they relate the same images: CKA and RSA, with intervals.

Features are the mean patch token of each image. CKA (Kornblith et al., 2019) is linear and debiased, with the unbiased
HSIC (Song et al., 2012). RSA (Kriegeskorte et al., 2008) is Spearman's correlation of the Euclidean distances between
all pairs of images. Intervals are of random halves of the images, without replacement, whose variance is that of all
images (Shao and Wu, 1989): no image is compared with its copy, as it would be in a bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from jaxtyping import Float

from perception_encoder.errors import DataError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.statistics.bootstrap import FEW_BLOCKS, PERCENTILES
from perception_encoder.preprocess.frames import spread_indices
from perception_encoder.progress import Track, untracked

IMAGES = 500
"""Maximum number of images: evenly spaced ones. A layer takes a few megabytes, whatever its width."""
DRAWS = 200
DIGITS = 4
SEED = 0
MEASURES = ("cka", "rsa")


@dataclass(frozen=True, kw_only=True)
class Similarities:
    """A measure for each layer of one model (rows) with each of another (columns)."""

    value: Float[np.ndarray, "L M"]
    low: Float[np.ndarray, "L M"]
    high: Float[np.ndarray, "L M"]
    """Ends of the 95 % intervals."""

    @property
    def widest(self) -> float:
        return float((self.high - self.low).max()) / 2

    def to_dict(self) -> dict[str, Any]:
        return {name: np.round(array, DIGITS).tolist() for name, array in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class ModelSimilarity:
    """Similarity of all layers of two models, or of one model's with each other."""

    models: tuple[str, str]
    layers: tuple[tuple[int, ...], tuple[int, ...]]
    images: int
    cka: Similarities
    rsa: Similarities

    def to_dict(self) -> dict[str, Any]:
        measures = {name: getattr(self, name).to_dict() for name in MEASURES}
        return {"models": self.models, "layers": self.layers, "images": self.images, **measures}


def compare_models(
    features: Mapping[str, Mapping[int, CachedTokens]], track: Track = untracked
) -> tuple[ModelSimilarity, ...]:
    """Compare each model's layers with its own and with the other models', on images that all could use.

    `features`: of the same images, by model and layer. Raises DataError for too few images.
    """
    layers = {name: tuple(cached) for name, cached in features.items()}
    common: np.ndarray = reduce(np.intersect1d, (next(iter(cached.values())).rows for cached in features.values()))
    if len(common) < FEW_BLOCKS:
        raise DataError(f"the similarity of layers needs {FEW_BLOCKS} images or videos, and there are {len(common)}")
    rows = common[spread_indices(len(common), min(IMAGES, len(common)))]
    places = [(name, layer) for name in features for layer in layers[name]]
    grams = np.empty((len(places), len(rows), len(rows)), np.float32)
    for number, (name, layer) in enumerate(track(places, "reading features", len(places))):
        tokens = features[name][layer]
        grams[number] = gram(tokens.mean(np.searchsorted(tokens.rows, rows)))
    measures = compare_grams(grams, track)
    at = {name: [number for number, place in enumerate(places) if place[0] == name] for name in features}
    return tuple(
        ModelSimilarity(
            models=(one, other),
            layers=(layers[one], layers[other]),
            images=len(rows),
            **{
                measure: Similarities(**{end: array[np.ix_(at[one], at[other])] for end, array in vars(whole).items()})
                for measure, whole in measures.items()
            },
        )
        for one, other in combinations_with_replacement(features, 2)
    )


def gram(features: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n n"]:
    """Return the dot products of centred features, which have a mean square of 1; zeros if all images have the same."""
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    scale, rounding = np.sqrt((centred**2).mean()), 1e-6 * np.abs(features).max()
    centred *= 1 / scale if scale > rounding else 0
    return (centred @ centred.T / centred.shape[1]).astype(np.float32)


def compare_grams(grams: Float[np.ndarray, "L n n"], track: Track = untracked) -> dict[str, Similarities]:
    """Return CKA and RSA between all layers, from their Gram matrices over the same images."""
    count = len(grams[0])
    generator = np.random.default_rng(SEED)
    draws = np.empty((DRAWS, len(MEASURES), len(grams), len(grams)), np.float32)
    for draw in track(range(DRAWS), "intervals of the similarity of layers", DRAWS):
        half = np.sort(generator.permutation(count)[: count // 2])
        part = grams[:, half[:, None], half]
        draws[draw] = cka(part), rsa(part)
    low, high = np.percentile(draws, PERCENTILES, axis=0)
    whole = cka(grams), rsa(grams)
    return {
        name: Similarities(value=whole[number], low=low[number], high=high[number])
        for number, name in enumerate(MEASURES)
    }


def cka(grams: Float[np.ndarray, "L n n"]) -> Float[np.ndarray, "L L"]:
    """Return the debiased linear CKA between all layers; 0 for a layer with the same features for all images.

    It is the cosine of Gram matrices that are centred without their diagonals (Székely and Rizzo, 2014).
    """
    n = grams.shape[1]
    centred = grams.copy()
    centred[:, np.arange(n), np.arange(n)] = 0
    means = centred.sum(axis=2, dtype=np.float64) / (n - 2)  # (L, n)
    centred += (means.sum(axis=1) / (n - 1))[:, None, None] - means[:, :, None] - means[:, None]
    centred[:, np.arange(n), np.arange(n)] = 0
    return _cosines(centred.reshape(len(grams), -1))


def rsa(grams: Float[np.ndarray, "L n n"]) -> Float[np.ndarray, "L L"]:
    """Return Spearman's correlation between all layers of the distances between images; 0 as in `cka`."""
    from scipy.stats import rankdata

    first, second = np.triu_indices(grams.shape[1], 1)
    ranks = np.empty((len(grams), len(first)), np.float32)
    for layer, products in enumerate(grams):
        squares = np.diagonal(products)
        ranks[layer] = rankdata(squares[first] + squares[second] - 2 * products[first, second])
    ranks -= (len(first) + 1) / 2
    return _cosines(ranks)


def _cosines(rows: Float[np.ndarray, "L m"]) -> Float[np.ndarray, "L L"]:
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.clip(rows @ rows.T, -1, 1)
