"""Names for images and videos out of a list of labels, zero-shot, with probabilities (section 2.5).

A label's embedding is that of its prompt ensemble; the probabilities are the softmax over the labels of the cosine
similarities times the model's logit scale, as the model was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.zero_shot import ZeroShotClassifier, highest
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.clip import CLIP


class Guess(NamedTuple):
    """A label and its probability among all the labels."""

    label: str
    probability: float


class Namer:
    """Finds the most probable labels of embeddings of one model.

    Attributes: `labels`, `class_vectors` (unit vectors (D,) by label), `logit_scale` (the factor, not its logarithm).
    """

    def __init__(self, encoder: Encoder, labels: Sequence[str], prompts: str = "photo") -> None:
        """`prompts`: a name in `PROMPTS`. ConfigError for another one, and for a model without a text tower."""
        if not isinstance(encoder.model, CLIP):
            raise ConfigError(f"{encoder.name} has no text tower and cannot name images; use a Core model")
        self.classifier = ZeroShotClassifier.of(encoder, tuple(dict.fromkeys(labels)), prompts)
        self.labels = self.classifier.classes
        self.logit_scale = math.exp(float(encoder.model.logit_scale.detach()))
        self.class_vectors = dict(zip(self.labels, self.classifier.vectors, strict=True))

    def guess(self, vectors: np.ndarray, top: int) -> list[list[Guess]]:
        """Return the `top` most probable labels of each unit vector (n, D), best first."""
        logits = self.logit_scale * self.classifier.scores(vectors)  # (n, K)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        best = highest(probabilities, min(top, len(self.labels)))
        return [
            [Guess(self.labels[column], float(row[column])) for column in columns]
            for row, columns in zip(probabilities, best, strict=True)
        ]


def read_labels(text: str) -> list[str]:
    """Read labels from "cat,dog,other pet", or from the lines of a file, "@labels.txt"; each once, in order.

    Raises ConfigError for fewer than two, and if the file cannot be read.
    """
    if text.startswith("@"):
        try:
            parts = Path(text[1:]).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ConfigError(f"{text[1:]} is not UTF-8 text; give a file with one label a line") from None
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"{text[1:]} cannot be read: {reason}; give a file with one label a line") from None
    else:
        parts = text.split(",")
    labels = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if len(labels) < 2:
        only = f"only {labels[0]!r}" if labels else "none"
        raise ConfigError(f"at least two labels to choose from are needed, and there is {only} (a file: @labels.txt)")
    return labels
