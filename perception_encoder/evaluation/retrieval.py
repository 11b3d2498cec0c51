"""Retrieval, of pictures or videos by their captions and the other way, with and without dual softmax (section 2.5).

Recall at k is the share of queries with something of their own among the k best: any of its captions for a picture
that has several, as COCO's have. Whatever scores as high as the right answer stands before it, so that vectors that
are all the same find nothing. A picture's captions are drawn anew together with it in the intervals. The published COCO
results are very probably those with dual softmax.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.features import FRAMES, check_finite, encode_sources
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import ItemScores, measure
from perception_encoder.models.protocols import ImageTextEncoder
from perception_encoder.progress import Track, untracked

TOPS = (1, 5, 10)
CHUNK = 4096  # texts that are encoded at a time


def dual_softmax(scores: np.ndarray) -> np.ndarray:
    """`scores * softmax(scores, axis=0)`: rows are the queries, so an item that many queries like counts less.

    It looks at all queries at once; figures with it are reported apart.
    """
    powers = np.exp(scores - scores.max(axis=0, keepdims=True))
    return scores * (powers / powers.sum(axis=0, keepdims=True))


def best_ranks(scores: np.ndarray, owners: np.ndarray, own: np.ndarray) -> np.ndarray:
    """How many foreign items of the gallery score at least as high as each query's best own one: 0 is found first.

    `scores`: (Q, G) similarities; `owners`: what each query is of, (Q,); `own`: what each gallery item is of, (G,).
    """
    mine = owners[:, None] == own[None, :]  # (Q, G)
    best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~mine).sum(axis=1)


def found_first(scores: np.ndarray) -> np.ndarray:
    """Whether query i ranks item i first: (n, n) similarities to bool (n,)."""
    places = np.arange(len(scores))
    return best_ranks(scores, places, places) == 0


def recalls(
    vectors: np.ndarray, texts: np.ndarray, owners: np.ndarray, kind: str, names: list[str]
) -> list[ItemScores]:
    """R@1, 5 and 10 both ways, without and with dual softmax.

    `vectors`: unit (n, D) of pictures or videos, `kind` says which, under `names`; `texts`: unit (m, D); `owners`: the
    place in `vectors` of what each text is of, (m,).
    """
    places = np.arange(len(vectors))
    scores = texts @ vectors.T  # (m, n)
    ways = {f"text to {kind}": (scores, owners, places), f"{kind} to text": (scores.T, places, owners)}
    found = []
    for way, (plain, asked, own) in ways.items():
        for suffix, ranked in (("", plain), (", dual softmax", dual_softmax(plain))):
            ranks = best_ranks(ranked, asked, own)
            whose = None if asked is places else asked
            found += [ItemScores.of(f"{way}{suffix} R@{top}", ranks < top, names, owners=whose) for top in TOPS]
    return found


def measure_retrieval(
    encoders: Mapping[str, ImageTextEncoder], data: CaptionedMedia, track: Track = untracked, frames: int = FRAMES
) -> tuple[list[Measurement], tuple[InputError, ...]]:
    """Measure retrieval under each transform; and what cannot be decoded, which is asked for by no caption.

    `encoders`: the model by its transforms' names. Raises DataError where fewer than two items can be decoded, and
    ModelError where a vector is not finite.
    """
    encoder = next(iter(encoders.values()))
    texts = np.concatenate(list(_encode_texts(encoder, data, track)))
    measurements: list[Measurement] = []
    failures: tuple[InputError, ...] = ()
    for transform, shown in encoders.items():
        vectors, rows, failures = encode_sources(shown, data.media, data.keys, data.name, track, frames)
        if len(rows) < 2:
            raise DataError(f"{data.name} has a single item that can be decoded; retrieval needs at least two")
        place = {row: index for index, row in enumerate(rows)}
        kept = [index for index, owner in enumerate(data.owners) if owner in place]
        owners = np.array([place[data.owners[index]] for index in kept])
        scores = tuple(recalls(vectors, texts[kept], owners, "item", [data.keys[row] for row in rows]))
        metrics = tuple(map(measure, scores))
        measurements.append(Measurement(data.name, "retrieval", transform, "", len(rows), metrics, scores=scores))
    return measurements, failures


def _encode_texts(encoder: ImageTextEncoder, data: CaptionedMedia, track: Track) -> Iterator[np.ndarray]:
    """Unit vectors of the captions, raw, some at a time."""
    starts = range(0, len(data.captions), CHUNK)
    for start in track(starts, f"reading the captions of {data.name}", len(starts)):
        vectors = encoder.encode_texts(data.captions[start : start + CHUNK])
        yield check_finite(vectors, encoder.name, "the captions")
