"""The ten categories of the PE Video Dataset (section 2.3), by the texts that are nearest to a video's frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perception_encoder.inference.encoder import Encoder
from perception_encoder.video_dataset.features import FeatureTable

CATEGORIES: dict[str, tuple[str, ...]] = {
    "Hand Actions": ("hands doing something", "a close view of a person's hands at work"),
    "Object Interactions": ("objects that move and touch each other", "a person using an object or a machine"),
    "Food Preparation": ("food being prepared", "a person cooking in a kitchen"),
    "Work Activities": ("people at work", "a worker doing a job with tools"),
    "Outdoor Scenes": ("an outdoor scene", "a street or a field with people, outdoors"),
    "Animals": ("an animal", "animals moving around"),
    "Water Scenes": ("water", "the sea, a river or a lake with waves"),
    "Object Handling": ("a person holding an object", "an object that is turned and handled"),
    "Close-up Shots": ("a close-up of a small detail", "an extreme close-up of an object"),
    "Nature Scenes": ("a landscape in nature", "plants, trees and mountains"),
}
"""The names, and the descriptions (ours) that stand for them; a category's embedding is their mean."""
_PROMPT = "a video of {}"
_SCALE = 100.0  # of the logits


@dataclass(frozen=True)
class VideoCategory:
    """A video's category."""

    key: str
    category: str
    probability: float


def categorise_videos(features: FeatureTable, encoder: Encoder) -> list[VideoCategory]:
    """Return the most probable category of each video; `encoder` must be the one that made the features."""
    prompts = [_PROMPT.format(text) for texts in CATEGORIES.values() for text in texts]
    embeddings = encoder.encode_texts(prompts)
    counts = np.cumsum([len(texts) for texts in CATEGORIES.values()])[:-1]
    means = np.stack([part.mean(axis=0) for part in np.split(embeddings, counts)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    logits = _SCALE * features.embeddings @ means.T  # (n, 10)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = powers / powers.sum(axis=1, keepdims=True)
    names = list(CATEGORIES)
    rows = zip(features.keys, shares, strict=True)
    return [VideoCategory(key, names[row.argmax()], float(row.max())) for key, row in rows]
