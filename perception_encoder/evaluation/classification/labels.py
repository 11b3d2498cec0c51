"""Names for pictures and videos out of a list of labels, zero-shot, with probabilities (section 2.5).

A label's vector is that of its prompt ensemble; the probabilities are the softmax over the labels of the cosine
similarities times the model's logit scale, as the model was trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.prompts import ensemble, find_templates, prompted_name
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.clip import CLIP


class Guess(NamedTuple):
    """A label and how probable it is among all the labels."""

    label: str
    probability: float


class Namer:
    """Gives vectors of one model the most probable of some labels.

    Attributes: `labels`, `class_vectors` (unit vectors (D,) by label), `logit_scale` (the factor, not its logarithm).
    """

    def __init__(self, encoder: Encoder, labels: Sequence[str], prompts: str = "photo") -> None:
        """`prompts`: a name in `prompts.PROMPTS`. ConfigError for another one, and for a model without a text tower."""
        templates = find_templates(prompts)
        if not isinstance(encoder.model, CLIP):
            raise ConfigError(f"{encoder.name} has no text tower, so it can name nothing; take a Core model")
        self.labels = tuple(dict.fromkeys(labels))
        self.logit_scale = math.exp(float(encoder.model.logit_scale.detach()))
        named = [prompted_name(label, prompts) for label in self.labels]
        self.class_vectors = dict(zip(self.labels, ensemble(encoder, named, templates), strict=True))

    def guess(self, vectors: np.ndarray, top: int) -> list[list[Guess]]:
        """The `top` most probable labels of each unit vector (n, D), best first."""
        logits = self.logit_scale * (vectors @ np.stack(list(self.class_vectors.values())).T)  # (n, K)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = weights / weights.sum(axis=1, keepdims=True)
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
        return [
            [Guess(self.labels[column], float(row[column])) for column in columns]
            for row, columns in zip(probabilities, best, strict=True)
        ]


def read_labels(given: str) -> list[str]:
    """Labels from "cat,dog,other pet", or from the lines of a file, "@labels.txt"; each once, in order.

    Raises ConfigError where there are fewer than two, or where the file cannot be read.
    """
    if given.startswith("@"):
        try:
            parts = Path(given[1:]).read_text(encoding="utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise ConfigError(f"{given[1:]} is not UTF-8 text; give a file with one label a line") from None
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(f"{given[1:]} cannot be read: {reason}; give a file with one label a line") from None
    else:
        parts = given.split(",")
    labels = list(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if len(labels) < 2:
        only = f"only {labels[0]!r}" if labels else "none"
        raise ConfigError(f"at least two labels to choose from are needed, and there is {only} (a file: @labels.txt)")
    return labels
