"""Captions of a labelled image: its label in the templates of the zero-shot protocol, or alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

PHOTO_TEMPLATES = (
    "a photo of a {}.",
    "a photo of the {}.",
    "a photo of one {}.",
    "a photo of my {}.",
    "a photo of many {}.",
    "a good photo of a {}.",
    "a good photo of the {}.",
    "a bad photo of a {}.",
    "a bad photo of the {}.",
    "a close-up photo of a {}.",
    "a close-up photo of the {}.",
    "a cropped photo of a {}.",
    "a cropped photo of the {}.",
    "a bright photo of a {}.",
    "a bright photo of the {}.",
    "a dark photo of the {}.",
    "a photo of a small {}.",
    "a photo of a large {}.",
    "a photo of a nice {}.",
    "a photo of the nice {}.",
    "a blurry photo of a {}.",
    "a low resolution photo of a {}.",
    "itap of a {}.",
    "itap of the {}.",
    "itap of my {}.",
)
SHARES: Mapping[str, float] = {"template": 0.8, "label": 0.2}  # share of each kind of caption


def name_of(metadata: Mapping[str, Any]) -> str:
    """Return the name of a sample's object, the same text in every source: its label in lower case."""
    return " ".join(str(metadata["label"]).lower().split())


def captions(label: str) -> dict[str, list[str]]:
    """Return the captions of a label by kind, the keys of `SHARES`."""
    return {"template": [template.format(label) for template in PHOTO_TEMPLATES], "label": [label, f"{label}."]}


def draw_text(texts: Mapping[str, Sequence[str]], shares: Mapping[str, float], generator: np.random.Generator) -> str:
    """Draw a kind by its share, rescaled to the available kinds, then one of its texts."""
    weights = np.array([shares[kind] for kind in texts])
    kind = list(texts)[int(generator.choice(len(weights), p=weights / weights.sum()))]
    return texts[kind][int(generator.integers(len(texts[kind])))]
