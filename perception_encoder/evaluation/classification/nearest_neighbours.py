"""k-NN: the class that the k most similar training items vote for, each with the weight exp(similarity / 0.07).

The paper does not say how its k-NN votes; this is the vote of DINO, which most publications use.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import accuracies
from perception_encoder.evaluation.embeddings import encode_images
from perception_encoder.evaluation.results import Measurement
from perception_encoder.inference.encoder import Encoder
from perception_encoder.progress import Track, untracked

TEMPERATURE = 0.07
K = 20
CHUNK = 1024  # items that are looked up at a time


def vote(
    train: np.ndarray, targets: np.ndarray, vectors: np.ndarray, k: int = K, temperature: float = TEMPERATURE
) -> np.ndarray:
    """Return the index of the class with the most votes for each vector, (n,); of classes that tie, the first.

    `train`: unit (m, D), of the classes `targets` (m,); `vectors`: unit (n, D). Raises ConfigError for a `k` out of
    1 to m.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"k is {k}; it must be at least 1 and at most {len(train)}, the number of training items")
    known, labels = torch.from_numpy(train).T.contiguous(), torch.from_numpy(targets)
    classes = int(targets.max()) + 1
    winners = []
    for chunk in torch.from_numpy(vectors).split(CHUNK):
        similarity, nearest = (chunk @ known).topk(k, dim=1)  # (n, k)
        weights = ((similarity.double() - similarity[:, :1]) / temperature).exp()  # the best one's weight is 1
        votes = torch.zeros(len(chunk), classes, dtype=torch.float64).scatter_add_(1, labels[nearest], weights)
        winners.append(votes.argmax(dim=1))
    return torch.cat(winners).numpy()


class NeighboursEvaluator:
    """A classification task by the votes of the most similar training items."""

    def __init__(self, splits: Splits, ks: Sequence[int] = (K,)) -> None:
        """`splits`: neighbours are those of `train` and `val` together; `val` may be empty."""
        self.splits, self.ks = splits, tuple(ks)

    def run(self, encoder: Encoder, track: Track = untracked) -> list[Measurement]:
        """Return a measurement for each k; errors as those of `vote`, and see `Evaluator`."""
        splits, classes = self.splits, self.splits.classes
        known = [encode_images(encoder, part, track) for part in (splits.train, splits.val) if part.keys]
        test = encode_images(encoder, splits.test, track)
        train = np.concatenate([part.vectors for part in known])
        targets = np.concatenate([part.targets(classes) for part in known])
        return [
            Measurement(
                task=splits.test.name,
                method=f"{k}-NN",
                classes=len(classes),
                settings={"temperature": f"{TEMPERATURE:g}", "train": f"{len(train):,}"},
                scores=accuracies(vote(train, targets, test.vectors, k), test.keys, test.labels, classes),
                failures=tuple(failure for part in (*known, test) for failure in part.failures),
            )
            for k in self.ks
        ]
