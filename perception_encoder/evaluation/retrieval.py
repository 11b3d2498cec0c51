"""Retrieve images or videos by captions and captions by media, with and without dual softmax (section 2.5).

Recall at k is the share of queries with an item of their own among the k best, any of its captions for an image.
Whatever scores as high as the right answer ranks before it. An image's captions are resampled together with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from perception_encoder.datasets.captioned import CaptionedMedia
from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import DataError
from perception_encoder.evaluation.embeddings import Embeddings
from perception_encoder.evaluation.inputs import FRAMES
from perception_encoder.evaluation.statistics.scores import ItemScores, Label, Score, measure_all
from perception_encoder.progress import Track, untracked

TOPS = (1, 5, 10)


def dual_softmax(scores: np.ndarray) -> np.ndarray:
    """Return `scores * softmax(scores, axis=0)`: rows are queries, so items that match many queries count less.

    It looks at all queries at once; metrics with it are reported separately.
    """
    powers = np.exp(scores - scores.max(axis=0, keepdims=True))
    return scores * (powers / powers.sum(axis=0, keepdims=True))


def best_ranks(scores: np.ndarray, owners: np.ndarray, gallery_owners: np.ndarray) -> np.ndarray:
    """Count the gallery items of other owners that score at least as high as each query's best match: 0 is first.

    `scores`: similarities (Q, G). `owners`, `gallery_owners`: the item of each query (Q,) and gallery entry (G,).
    """
    mine = owners[:, None] == gallery_owners[None, :]  # (Q, G)
    best = np.where(mine, scores, -np.inf).max(axis=1, keepdims=True)
    return ((scores >= best) & ~mine).sum(axis=1)


def recalls(
    similarity: np.ndarray,
    owners: np.ndarray | None,
    ways: tuple[str, str],
    names: Sequence[str],
    tops: Sequence[int] = TOPS,
) -> tuple[ItemScores, ...]:
    """Score R@k in both directions, without and with dual softmax.

    Args:
        similarity: Of texts to items (m, n).
        owners: The index of each text's item, (m,), or None if text i is that of item i.
        ways: Names of retrieval of items by a text, and of texts by an item.
        names: The items'.
    """
    items = np.arange(similarity.shape[1])
    texts = items if owners is None else owners
    scores = []
    for way, plain, queries, gallery in ((ways[0], similarity, texts, items), (ways[1], similarity.T, items, texts)):
        for suffix, ranked in (("", plain), (", dual softmax", dual_softmax(plain))):
            ranks = best_ranks(ranked, queries, gallery)
            whose = None if queries is items else queries
            scores += [ItemScores.of(f"{way}{suffix} R@{top}", ranks < top, names, owners=whose) for top in tops]
    return tuple(scores)


@dataclass(frozen=True)
class RetrievalEvaluator:
    """Retrieval of captioned images or videos, and of captions."""

    data: CaptionedMedia
    """An item that cannot be decoded is left out together with its captions."""
    frames: int = FRAMES

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield R@1, 5 and 10: see `Evaluator`. DataError if fewer than two items can be decoded."""
        data = self.data
        captions = [text for texts in data.captions for text in texts]
        texts = source.texts(captions, f"the captions of {data.name}", track)
        items = LabelledImages(data.name, data.keys, data.media, data.keys)
        features = source.images(items, track, self.frames)
        count = len(features.keys)
        if count < 2:
            raise DataError(f"{data.name} has only one item that can be decoded; retrieval needs at least two")
        owner_of = np.repeat(np.arange(len(data.keys)), [len(texts) for texts in data.captions])
        rows = np.isin(owner_of, features.rows)
        owners = np.searchsorted(features.rows, owner_of[rows])
        ways = "text to item", "item to text"
        label = Label(task=data.name, method="retrieval", classes=count, failures=features.failures)
        yield from measure_all(recalls(texts[rows] @ features.vectors.T, owners, ways, features.keys), label)
