"""Features of every video, from which an interest score is learned (section 2.3, A.2): motion, frames, answers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.datasets.pe_video import VideoRecord, VideoTar, list_video_tars, read_video_tar
from perception_encoder.errors import DataError, InputError
from perception_encoder.files import file_state, replacing, writing
from perception_encoder.inference.conversation.assistant import digest_of
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.conversation import ask
from perception_encoder.preprocess.video import read_frames
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import unit_rows
from perception_encoder.video_dataset.motion import NO_MOTION, MotionFeatures, measure_motion, measure_object_motion
from perception_encoder.video_dataset.tables import table_key

if TYPE_CHECKING:
    from perception_encoder.language_alignment.language_model import LanguageModel

FORMAT = 5
"""Increase when the same video gets different features."""
FRAMES = 3
"""Number of uniformly spaced frames to encode."""
QUESTION_FRAMES = 8
"""Number of uniformly spaced frames that the language model sees."""
MOTION = (
    *(f"motion_{field.name}" for field in fields(MotionFeatures) if field.name != "source"),
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


def compute_features(
    data: Path, out: Path, encoder: Encoder, model: LanguageModel | None = None, track: Track = untracked
) -> FeatureTable:
    """Return the features of a dataset, computing those without a current file OUT/SPLIT-TAR.parquet.

    `model` answers the questions. A file is current if its tar, the encoder and the model have not changed. Raises
    DataError for a damaged tar, two videos of one key, and if no video can be decoded.
    """
    names = (*MOTION, *(f"answer_{name}" for name in QUESTIONS)) if model else MOTION
    models = [encoder.name, getattr(encoder, "weight_hash", ""), *([model.name, digest_of(model)] if model else [])]
    tars, root = list_video_tars(data), data if data.is_dir() else data.parent
    parts: list[FeatureTable] = []
    for tar in track(tars, "reading features", len(tars)):
        path = out / f"{'-'.join(tar.path.relative_to(root).with_suffix('').parts)}.parquet"
        made_by = json.dumps([FORMAT, file_state(tar.path), *models])
        part = _read_part(path, made_by, names)
        if part is None:
            failures: list[InputError] = []
            table = pa.Table.from_pylist(list(_rows(tar, encoder, model, failures)), _schema(names))
            reports = json.dumps([(failure.source, failure.reason) for failure in failures])
            with writing(path), replacing(path) as temporary:
                pq.write_table(table.replace_schema_metadata({"made_by": made_by, "failures": reports}), temporary)
            part = _read_part(path, made_by, names)
            assert part is not None
        parts.append(part)
    keys = [key for part in parts for key in part.keys]
    if not keys:
        raise DataError(f"no video of {data} can be decoded")
    if (most := Counter(keys).most_common(1)[0])[1] > 1:
        raise DataError(f"{data} has {most[1]} videos of the key {most[0]}; rename the others")
    return FeatureTable(
        tuple(keys),
        names,
        np.concatenate([part.values for part in parts if len(part)]),
        np.concatenate([part.frames for part in parts if len(part)]),
        tuple(failure for part in parts for failure in part.failures),
    )


def _schema(names: tuple[str, ...]) -> pa.Schema:
    numbers = dict.fromkeys(names, pa.float64())
    return pa.schema({"key": pa.string(), **numbers, "frames": pa.list_(pa.list_(pa.float32()))})


def _read_part(path: Path, made_by: str, names: tuple[str, ...]) -> FeatureTable | None:
    """Return the features of a tar; None if the file is missing, damaged or outdated."""
    try:
        table = pq.read_table(path)
        metadata = table.schema.metadata or {}
        if metadata.get(b"made_by") != made_by.encode():
            return None
        keys = tuple(map(str, table["key"].to_pylist()))
        values = np.stack([np.array(table[name], np.float64) for name in names], axis=1)
        frames = np.array(table["frames"].to_pylist(), np.float32)
        failures = tuple(InputError(source, reason) for source, reason in json.loads(metadata[b"failures"]))
        return FeatureTable(keys, names, values, frames.reshape(len(keys), FRAMES, -1) if keys else frames, failures)
    except (OSError, ValueError, TypeError, LookupError, pa.ArrowException):
        return None


def _rows(
    tar: VideoTar, encoder: Encoder, model: LanguageModel | None, failures: list[InputError]
) -> Iterator[dict[str, Any]]:
    for record in read_video_tar(tar):
        try:
            yield _features(record, encoder, model)
        except InputError as error:
            failures.append(error)


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
    return {"key": table_key(record), **row, "frames": encoder.encode_images(images).tolist()}
