"""Questions and boxes in a rendered scene's JSON."""

from __future__ import annotations

import pytest

from perception_encoder.errors import DataError
from synthetic.questions.scene_questions import SceneAnswer, SceneBox, scene_answers, scene_boxes


def test_answers() -> None:
    scene = {"questions": [{"type": "count", "question": "How many?", "answer": "2"}, {"question": "Q", "answer": "A"}]}
    assert scene_answers(scene, "s") == [SceneAnswer("count", "How many?", "2"), SceneAnswer("", "Q", "A")]
    assert scene_answers({}, "s") == []
    for bad in ({"questions": 1}, {"questions": [{"question": "Q"}]}):
        with pytest.raises(DataError, match=r"s: .*questions"):
            scene_answers(bad, "s")


def test_boxes_are_those_of_objects_that_are_the_only_ones_of_their_kind() -> None:
    objects = [{"kind": "mug", "box": [1, 2.5, 3, 4]}, *[{"kind": "chair", "box": [0, 0, 1, 1]}] * 2, {"kind": "lamp"}]
    assert scene_boxes({"objects": objects}, "s") == [SceneBox("mug", (1, 2.5, 3, 4))]
    with pytest.raises(DataError, match="s: the box of the mug is"):
        scene_boxes({"objects": [{"kind": "mug", "box": [1, 2, 3, "a"]}]}, "s")
