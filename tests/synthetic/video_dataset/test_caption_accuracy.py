"""Precision and recall of captions, counted over all that they say and all that is true."""

from __future__ import annotations

import pytest

from perception_encoder.evaluation.statistics.scores import estimate
from synthetic.video_dataset.caption_accuracy import score_captions
from synthetic.video_dataset.truth import SceneTruth

CLASSES = ("lamp", "crate", "dog")
TRUTHS = {
    "one": SceneTruth((("lamp", "red"), ("crate", "blue")), (("lamp", "tips over"), ("crate", "falls")), False),
    "two": SceneTruth((("dog", "white"),), (), False),
}


def scores_of(captions: dict[str, str]) -> dict[str, float]:
    return {score.metric: estimate([score]).value for score in score_captions(captions, TRUTHS, CLASSES)}


def test_what_is_said_is_counted() -> None:
    """Of four objects three are there; of the three that are there all are said; and so on."""
    captions = {"one": "A green lamp tips over. A blue crate rolls. A white dog.", "two": "A white dog."}
    assert scores_of(captions) == pytest.approx(
        {
            "objects precision": 3 / 4,
            "objects recall": 3 / 3,
            "colours precision": 2 / 4,
            "colours recall": 2 / 3,
            "actions precision": 1 / 2,
            "actions recall": 1 / 2,
            "events precision": 1 / 2,
            "events recall": 1 / 2,
        }
    )
