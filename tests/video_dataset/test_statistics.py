"""Statistics by split and by category, of a dataset whose numbers are known."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from perception_encoder.datasets.pe_video import read_videos_of
from perception_encoder.video_dataset.statistics import UNKNOWN, describe_dataset
from tests.video_dataset.clips import fields, write_dataset


def test_tables_3_and_16(tmp_path: Path) -> None:
    train = [
        ("a", fields("one two three", human_caption="one two", video_duration_in_s=10.0)),
        ("b", fields("one", refined_caption="a b c d", refined_by="simulated", video_duration_in_s=20.0)),
        ("c", fields("one two", category_name="Animals", video_duration_in_s=None)),
    ]
    test = [("d", fields("x", human_caption="a dog", category_name="Animals"))]
    test += [("e", fields("x", human_caption="a", category_name=None, category=None))]
    statistics = describe_dataset(read_videos_of(write_dataset(tmp_path, {"train": [train], "test": [test]})))
    assert list(statistics.splits) == ["train", "test", "all"]
    table = statistics.splits["train"]
    assert (table.videos, table.refined, table.simulated) == (3, 2, 1)
    assert (table.seconds.mean, table.seconds.deviation, table.seconds.count) == (15, 5, 2)
    assert table.hours == pytest.approx(30 / 3600)
    assert (table.model_words.mean, table.refined_words.mean, table.refined_words.deviation) == (2, 3, 1)
    assert statistics.splits["all"].videos == 5 and statistics.splits["test"].simulated == 0
    rows = {split: [tuple(vars(row).values()) for row in each] for split, each in statistics.categories.items()}
    assert rows["all"] == [("Water Scenes", 2, 3), ("Animals", 1, 2), (UNKNOWN, 1, 1)]
    assert rows["test"] == [("Animals", 1, 2), (UNKNOWN, 1, 1)]  # table 16: its videos sum to 15,000
    assert rows["train"] == [("Water Scenes", 2, 3)]


def test_a_dataset_without_captions(tmp_path: Path) -> None:
    statistics = describe_dataset(read_videos_of(write_dataset(tmp_path, {"extended": [[("a", {"keywords": ["x"]})]]})))
    table = statistics.splits["all"]
    assert math.isnan(table.seconds.mean) and table.refined == 0 and statistics.categories["all"] == ()
