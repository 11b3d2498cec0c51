"""The interest score of rendered videos, on features that tell the number of events unless the camera moves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.video.interest import reproduce_interest
from perception_encoder.video_dataset.features import MOTION, FeatureTable
from tests.video_dataset.clips import fields, write_dataset

TRAIN, TEST = 60, 30


def happening(number: int) -> tuple[str, dict[str, Any]]:
    """A video of one to four events; in some the last is an orbit of the camera."""
    count = 1 + number % 4
    events = [{"action": "falls", "object": 1, "start": 0.0, "end": 1.0}] * count
    if number % 3 == 0:
        events = [*events[1:], {"action": "orbits", "object": None, "start": 0.0, "end": 2.0}]
    return f"v{number:02}", fields(None, objects=[{"id": 1, "kind": "lamp", "colour": ""}], events=events)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FeatureTable]:
    """A dataset, and features whose first tells the number of events unless the camera moves."""
    videos = {"train": [happening(n) for n in range(TRAIN)], "test": [happening(n) for n in range(TEST)]}
    data = write_dataset(tmp_path_factory.mktemp("interest"), {split: [video] for split, video in videos.items()})
    rng = np.random.default_rng(0)
    values = rng.normal(size=(TRAIN + TEST, len(MOTION)))
    told = [len(fields["events"]) if n % 3 else 2.5 for video in videos.values() for n, (_, fields) in enumerate(video)]
    values[:, 0] = told + rng.normal(0, 0.1, TRAIN + TEST)
    keys = tuple(f"{split}/{key}" for split, video in videos.items() for key, _ in video)
    return data, FeatureTable(keys, MOTION, values, rng.normal(size=(TRAIN + TEST, 3, 4)).astype(np.float32))


def test_videos_that_were_not_scored_are_correlated(known: tuple[Path, FeatureTable]) -> None:
    result = reproduce_interest(*known, scored=50)
    rows = {row["videos"]: row for row in result["rows"]}
    assert {name: row["n"] for name, row in rows.items()} == {
        "all": TRAIN - 50 + TEST,
        "the camera is still": 27,
        "the camera moves": 13,
        "objects of the training videos": TRAIN - 50,
        "unseen objects": TEST,
    }
    still, moving = rows["the camera is still"], rows["the camera moves"]
    assert still["correlation"] > 0.8 > 0.5 > abs(moving["correlation"])
    assert all(row["interval"][0] <= row["correlation"] <= row["interval"][1] for row in rows.values())
    assert result["forest"]["videos"] == 50 and next(iter(result["forest"]["importances"])) == MOTION[0]
