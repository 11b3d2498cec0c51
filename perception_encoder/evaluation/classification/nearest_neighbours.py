"""k-NN: the class that the k most similar training items vote for, each with the weight exp(similarity / 0.07).

The paper does not say how its k-NN votes; this is the vote of DINO, which most publications use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.evaluation.classification.splits import Splits
from perception_encoder.evaluation.classification.zero_shot import accuracies
from perception_encoder.evaluation.features import FRAMES, encode_pictures
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.scores import measure
from perception_encoder.models.protocols import ImageEncoder
from perception_encoder.progress import Track, untracked

TEMPERATURE = 0.07
K = 20
CHUNK = 1024  # items that are looked up at a time


def vote(
    train: np.ndarray, targets: np.ndarray, vectors: np.ndarray, k: int = K, temperature: float = TEMPERATURE
) -> np.ndarray:
    """The place of the class with the most votes for each vector, (n,); of classes that tie, the first.

    `train`: unit (m, D), of the classes `targets` (m,); `vectors`: unit (n, D). Raises ConfigError for a `k` that is
    not within 1 to m.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"k is {k}; it must be at least 1 and at most {len(train)}, the number of training items")
    known, labels = torch.from_numpy(train).T.contiguous(), torch.from_numpy(targets)
    classes = int(targets.max()) + 1
    found = []
    for chunk in torch.from_numpy(vectors).split(CHUNK):
        similarity, nearest = (chunk @ known).topk(k, dim=1)  # (n, k)
        weights = ((similarity.double() - similarity[:, :1]) / temperature).exp()  # the best one's weight is 1
        votes = torch.zeros(len(chunk), classes, dtype=torch.float64).scatter_add_(1, labels[nearest], weights)
        found.append(votes.argmax(dim=1))
    return torch.cat(found).numpy()


def measure_neighbours(
    encoders: Mapping[str, ImageEncoder],
    splits: Splits,
    ks: Sequence[int] = (K,),
    track: Track = untracked,
    frames: int = FRAMES,
) -> tuple[list[Measurement], tuple[InputError, ...]]:
    """Measure a task by k-NN for each k under each transform; and what cannot be decoded, training items included.

    Neighbours are those of `train` and `val` together; `val` may be empty. Errors as those of `vote` and
    `encode_pictures`.
    """
    measurements: list[Measurement] = []
    failures: tuple[InputError, ...] = ()
    for transform, encoder in encoders.items():
        learned = [part for part in (splits.train, splits.val) if part.keys]
        parts = [encode_pictures(encoder, part, track, frames) for part in (*learned, splits.test)]
        *known, test = parts
        train = np.concatenate([part.vectors for part in known])
        targets = np.concatenate([part.targets(splits.classes) for part in known])
        failures = tuple(failure for part in parts for failure in part.failures)
        for k in ks:
            scores = accuracies(vote(train, targets, test.vectors, k), test, splits.classes)
            metrics = tuple(map(measure, scores))
            label = (splits.test.name, f"{k}-NN", transform, "", len(splits.classes))
            settings = {"temperature": f"{TEMPERATURE:g}", "train": f"{len(train):,}"}
            measurements.append(Measurement(*label, metrics, settings, scores))
    return measurements, failures
