"""Features of every video, from which an interest score is learned (section 2.3, A.2): motion, frames, answers."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from perception_encoder.conversation.assistant import digest_of
from perception_encoder.datasets.pe_video import VideoRecord, list_video_tars, read_video_tar
from perception_encoder.errors import DataError, InputError
from perception_encoder.files import checksum, digest, file_state
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.conversation import ask
from perception_encoder.preprocess.video import read_frames
from perception_encoder.progress import Track, untracked
from perception_encoder.store import Store, reading
from perception_encoder.vectors import unit_rows
from perception_encoder.video_dataset.motion import NO_MOTION, MotionFeatures, measure_motion, measure_object_motion
from perception_encoder.video_dataset.tables import table_key

if TYPE_CHECKING:
    from perception_encoder.language_models.language_model import LanguageModel

FORMAT = 5
"""Increase when the same video gets different features."""
FRAMES = 3
"""Number of uniformly spaced frames to encode."""
QUESTION_FRAMES = 8
"""Number of uniformly spaced frames that the language model sees."""
MOTION = (
    *(f"motion_{field.name}" for field in fields(MotionFeatures)),
    *(f"objects_{name}" for name in NO_MOTION.columns()),
)
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
"""Yes/no questions by the feature's name; the paper lists their subjects (A.2, step 3), the wording is ours."""
SUFFIX = " Answer yes or no."


@dataclass(frozen=True)
class FeatureTable:
    """The features of a dataset's videos."""

    keys: tuple[str, ...]
    """SPLIT/KEY."""
    names: tuple[str, ...]
    """Columns of `values`."""
    values: np.ndarray
    """(n, m) float64: motion and any answers."""
    frames: np.ndarray
    """(n, 3, D) float32: embeddings of the frames."""
    failures: tuple[InputError, ...] = ()
    """Videos without a row because they cannot be decoded."""

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def embeddings(self) -> np.ndarray:
        """The mean of the frames' embeddings, unit length: (n, D) float32."""
        return unit_rows(self.frames.mean(axis=1))


@dataclass(frozen=True)
class _Tar:
    state: str
    """Digest of the file's path, size and times."""
    content: str
    """Digest of its path and content, by which it is recognised if only its times have changed."""
    keys: tuple[str, ...]
    values: tuple[tuple[float, ...], ...]
    failures: tuple[tuple[str, str], ...]
    """Source and reason of each."""


def compute_features(
    data: Path, out: Path, encoder: Encoder, model: LanguageModel | None = None, track: Track = untracked
) -> FeatureTable:
    """Return the features of a dataset; those of unchanged tars by the same models are read from the directory `out`.

    `model` answers the questions. Raises DataError for a damaged tar or damaged features, two videos of one key, and if
    no video can be decoded; OutputError if another process computes them.
    """
    names = (*MOTION, *(f"answer_{name}" for name in QUESTIONS)) if model else MOTION
    models = [encoder.name, getattr(encoder, "weight_hash", ""), *([model.name, digest_of(model)] if model else [])]
    depends = {"format": FORMAT, "models": models}
    tars, parts = list_video_tars(data), list[_Tar]()
    embeddings, values = list[np.ndarray](), list[np.ndarray]()
    with Store(out / digest(depends), depends, remedy="delete its directory to compute it again") as store:
        done, frames = store.records(_Tar), store.arrays()
        earlier = {name: tar for tar in done.rows for name in (tar.state, tar.content)}
        for tar in track(tars, "reading features", len(tars)):
            state = digest(file_state(tar))
            if state not in earlier:
                with reading(tar, "replace it"):
                    content = digest(os.path.abspath(tar), checksum(tar))
                if content not in earlier:
                    rows, errors = _rows(tar, encoder, model)
                    frames.put(content, np.array([row["frames"] for row in rows], np.float32))
                    numbers = tuple(tuple(float(row[name]) for name in names) for row in rows)
                    earlier[content] = _Tar(state, content, tuple(row["key"] for row in rows), numbers, errors)
                earlier[state] = replace(earlier[content], state=state)
                done.append(earlier[state])
            parts.append(earlier[state])
            if count := len(parts[-1].keys):
                with store.reading(done.path):
                    embeddings.append(frames[parts[-1].content].reshape(count, FRAMES, -1))
                    values.append(np.array(parts[-1].values, np.float64).reshape(count, len(names)))
    keys = tuple(key for part in parts for key in part.keys)
    if not keys:
        raise DataError(f"no video of {data} can be decoded")
    if (most := Counter(keys).most_common(1)[0])[1] > 1:
        raise DataError(f"{data} has {most[1]} videos of the key {most[0]}; rename the others")
    failures = tuple(InputError(*failure) for part in parts for failure in part.failures)
    return FeatureTable(keys, names, np.concatenate(values), np.concatenate(embeddings), failures)


def _rows(
    tar: Path, encoder: Encoder, model: LanguageModel | None
) -> tuple[list[dict[str, Any]], tuple[tuple[str, str], ...]]:
    rows, failures = list[dict[str, Any]](), list[tuple[str, str]]()
    for record in read_video_tar(tar):
        try:
            rows.append(_features(record, encoder, model))
        except InputError as error:
            failures.append((error.source, error.reason))
    return rows, tuple(failures)


def _features(record: VideoRecord, encoder: Encoder, model: LanguageModel | None) -> dict[str, Any]:
    content, where = record.video.read(record.where), record.where
    motion, objects = measure_motion(content, where), measure_object_motion(content, where)
    images = read_frames(content, where, FRAMES).images
    row = {f"motion_{name}": value for name, value in vars(motion).items()}
    row |= {f"objects_{name}": value for name, value in objects.columns().items()}
    if model is not None:
        video = read_frames(content, where, QUESTION_FRAMES)
        answers = model.yes_probabilities([ask(question + SUFFIX, [video]) for question in QUESTIONS.values()])
        row |= {f"answer_{name}": answer for name, answer in zip(QUESTIONS, answers.tolist(), strict=True)}
    return {"key": table_key(record), **row, "frames": encoder.encode_images(images)}
