"""The 26 yes/no questions about a video, for a language model that sees (section 2.3, A.2, step 3).

The paper lists what they are about; the wording is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perception_encoder.preprocess.conversation import YesNoModel, ask
from perception_encoder.preprocess.frames import VideoFrames

QUESTIONS: dict[str, str] = {
    "camera_static": "Does the camera stay still?",
    "camera_moving": "Does the camera move?",
    "camera_drone": "Was this filmed from a drone or an aircraft?",
    "camera_far": "Is the camera far away from what it films?",
    "scene_landscape": "Does the video mainly show a landscape?",
    "scene_static": "Does nothing in the scene move?",
    "scene_mostly_static": "Does hardly anything in the scene move?",
    "scene_abstract": "Does the video show abstract shapes or patterns?",
    "scene_generated": "Is the video made by a computer, as an animation or a game is?",
    "motion_through": "Does something move through the scene?",
    "motion_several": "Do several objects move at the same time?",
    "motion_persons": "Do several persons move?",
    "motion_animals": "Do several animals move?",
    "motion_hard": "Is the motion too fast or too confusing to follow?",
    "action_someone": "Does someone do something?",
    "action_object": "Does someone handle an object?",
    "action_screen": "Does someone use a screen, such as that of a computer or a phone?",
    "action_screen_always": "Is someone at a screen throughout the video?",
    "content_animals": "Are there animals?",
    "content_many": "Is there a lot to see?",
    "content_over_five": "Are there more than five different objects?",
    "content_several": "Are there several objects?",
    "content_similar": "Are there objects that are similar to each other?",
    "content_alike": "Do the objects look alike?",
    "hidden_objects": "Do some objects hide parts of others?",
    "hidden_view": "Is something other than a watermark in the way of the view?",
}
"""By the name of the feature."""
SUFFIX = " Answer yes or no."


def answer_questions(model: YesNoModel, video: VideoFrames) -> np.ndarray:
    """Return the probability of yes for each of `QUESTIONS`, (26,) float64."""
    return model.yes_probabilities([ask(question + SUFFIX, [video]) for question in QUESTIONS.values()])


def answer_columns() -> Sequence[str]:
    """Return the names of the answers' columns, in the order of `answer_questions`."""
    return [f"answer_{name}" for name in QUESTIONS]
