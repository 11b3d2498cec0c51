"""Encoders and models whose outputs are known, and features without videos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from perception_encoder.preprocess.conversation import Message
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.video_dataset.features import FeatureTable
from tests.clips import number_of


class NumberEncoder:
    """Encodes the number that a frame of `tests.clips` carries, and a text by its length."""

    name = "numbers"

    def __init__(self) -> None:
        self.images = 0

    def encode_images(self, images: Sequence[Image.Image], normalize: bool = True) -> np.ndarray:
        self.images += len(images)
        return np.array([[number_of(image), 1.0] for image in images], np.float32)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[len(text), 1.0] for text in texts], np.float32)


class CountingModel:
    """Answers question n with n percent, whatever it sees."""

    name = "counting"

    def __init__(self) -> None:
        self.conversations: list[Sequence[Message]] = []

    def describe(self) -> dict[str, str]:
        return {"name": self.name}

    def yes_probabilities(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        self.conversations += conversations
        assert all(isinstance(conversation[0].media[0], VideoFrames) for conversation in conversations)
        return np.arange(len(conversations)) / 100


def table_of(embeddings: np.ndarray, values: np.ndarray | None = None) -> FeatureTable:
    """Videos train/0, train/1 and so on of one frame; `values` are two features by default unrelated to anything."""
    keys = tuple(f"train/{number}" for number in range(len(embeddings)))
    values = np.zeros((len(embeddings), 2)) if values is None else values
    names = tuple(f"motion_{n}" for n in range(values.shape[1]))
    return FeatureTable(keys, names, values, embeddings[:, None].astype(np.float32))
