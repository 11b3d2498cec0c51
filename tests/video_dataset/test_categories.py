"""A video gets the category whose texts are nearest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_encoder.video_dataset.categories import CATEGORIES, categorise_videos
from tests.video_dataset.models import NumberEncoder
from tests.video_dataset.tables import table_of


class AxisEncoder(NumberEncoder):
    """Encodes each category's descriptions near one axis."""

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        axes = {text: n for n, each in enumerate(CATEGORIES.values()) for text in each}
        rows = [np.eye(10)[axes[text.removeprefix("a video of ")]] for text in texts]
        return np.array(rows, np.float32)


def test_there_are_the_ten_categories() -> None:
    assert len(CATEGORIES) == 10 and "Food Preparation" in CATEGORIES
    texts = [text for each in CATEGORIES.values() for text in each]
    assert len(set(texts)) == len(texts)


def test_the_nearest_category_is_taken() -> None:
    table = table_of(np.eye(10)[[6, 0, 5]] + 0.01)
    first, second, third = categorise_videos(table, AxisEncoder())
    assert [each.category for each in (first, second, third)] == ["Water Scenes", "Hand Actions", "Animals"]
    assert first.key == "train/0" and first.probability > 0.99


def test_a_video_between_two_is_uncertain() -> None:
    embedding = np.eye(10)[[6]] + np.eye(10)[[5]]
    (category,) = categorise_videos(table_of(embedding), AxisEncoder())
    assert 0.45 < category.probability < 0.55
