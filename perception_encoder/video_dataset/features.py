"""Features of every video, from which an interest score is learned (section 2.3, A.2): motion, frames, answers.

They are stored in a Parquet file for each tar, so that an interrupted run resumes at the next tar. A vision-language
model answers 26 yes/no questions; the paper lists their subjects (A.2, step 3), the wording is ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from perception_encoder.datasets.pe_video import VideoTar, list_video_tars, read_video_tar
from perception_encoder.errors import DataError, InputError, one_line
from perception_encoder.files import file_state, replacing, writing
from perception_encoder.inference.conversation.assistant import digest_of
from perception_encoder.inference.encoder import Encoder
from perception_encoder.preprocess.conversation import Message, ask
from perception_encoder.preprocess.frames import VideoFrames
from perception_encoder.preprocess.video import read_frames
from perception_encoder.progress import Track, untracked
from perception_encoder.video_dataset.motion import NO_MOTION, MotionFeatures, measure_motion, measure_object_motion
from perception_encoder.video_dataset.tables import table_key

FORMAT = 4
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
"""Yes/no questions by the feature's name."""
SUFFIX = " Answer yes or no."


class YesNoModel(Protocol):
    """A model that answers yes/no questions about videos with probabilities, as `LanguageModel` does."""

    @property
    def name(self) -> str:
        """Name of the model in results."""
        ...

    def yes_probabilities(self, conversations: Sequence[Sequence[Message]]) -> np.ndarray:
        """Return the probability that each answer begins with "yes" rather than "no": (B,) float64."""
        ...


@dataclass(frozen=True)
class FeatureTable:
    """The features of many videos."""

    keys: tuple[str, ...]
    """SPLIT/KEY."""
    names: tuple[str, ...]
    """Columns of `values`."""
    values: np.ndarray
    """(n, m) float64: motion, the frames' embeddings, and any answers."""
    embeddings: np.ndarray
    """(n, D) float32: the mean of the frames' embeddings, unit length."""

    def __len__(self) -> int:
        return len(self.keys)


@dataclass(frozen=True)
class FeatureRun:
    """The result of `extract_features`."""

    videos: int
    failures: tuple[InputError, ...]
    """Videos without a row because they cannot be decoded."""


def extract_features(
    data: Path, out: Path, encoder: Encoder, model: YesNoModel | None = None, track: Track = untracked
) -> FeatureRun:
    """Write OUT/SPLIT-TAR.parquet for each tar without one; `model` answers the questions.

    A file is written again if its tar, the encoder or the model has changed. Raises DataError for a damaged tar.
    """
    videos, failures = 0, list[InputError]()
    models = [encoder.name, getattr(encoder, "weight_hash", ""), model.name if model else ""]
    models += [digest_of(model) if model else ""]
    tars, names = list_video_tars(data), set[str]()
    for tar in track(tars, "reading features", len(tars)):
        name = f"{tar.split or 'videos'}-{tar.path.stem}"
        while name in names:  # train.tar and train/train.tar
            name += "+"
        names.add(name)
        path = out / f"{name}.parquet"
        made_by = json.dumps([FORMAT, file_state(tar.path), *models])
        if _made_by(path) == made_by:
            videos += pq.ParquetFile(path).metadata.num_rows
            continue
        rows = list(_rows(tar, encoder, model, failures))
        table = pa.Table.from_pylist(rows, schema=_schema(rows, model is not None))
        with writing(path), replacing(path) as temporary:
            pq.write_table(table.replace_schema_metadata({"made_by": made_by}), temporary)
        videos += len(rows)
    return FeatureRun(videos, tuple(failures))


def read_features(directory: Path) -> FeatureTable:
    """Read the files of `extract_features`; DataError if they are missing, damaged, mixed or outdated."""
    remedy = "delete it and rerun `pe video-dataset select` to compute features again"
    paths = sorted(directory.glob("*.parquet"))
    tables = [_read_table(path) for path in paths]
    tables = [table for table in tables if table.num_rows]
    if not tables:
        raise DataError(f"{directory} has no features; `pe video-dataset select` computes them")
    if any(table.column_names != tables[0].column_names for table in tables):
        raise DataError(f"{directory}: some features have answers and others do not; {remedy}")
    table = pa.concat_tables(tables)
    if not {*MOTION, "key", "frames"} <= set(table.column_names):
        raise DataError(f"{directory} has an older version; {remedy}")
    answers = [name for name in table.column_names if name.startswith("answer_")]
    try:
        frames = np.array(table["frames"].to_pylist(), np.float32)  # (n, 3, D)
        columns = [np.array(table[name], np.float64)[:, None] for name in (*MOTION, *answers)]
        if frames.ndim != 3 or frames.shape[1] != FRAMES or None in (keys := table["key"].to_pylist()):
            raise ValueError(f"frames are {frames.shape}")
    except (ValueError, TypeError) as error:
        raise DataError(f"{directory} has invalid features ({one_line(error)}); {remedy}") from None
    names = [*MOTION, *(f"frame{frame}_{n}" for frame in range(FRAMES) for n in range(frames.shape[2])), *answers]
    flat = frames.reshape(len(frames), -1)
    values = np.concatenate([*columns[: len(MOTION)], flat, *columns[len(MOTION) :]], axis=1)
    means = frames.mean(axis=1)
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    return FeatureTable(tuple(map(str, keys)), tuple(names), values, means)


def _read_table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        remedy = "delete it and rerun `pe video-dataset select`"
        raise DataError(f"{path} is damaged ({one_line(error)}); {remedy}") from None


def _rows(
    tar: VideoTar, encoder: Encoder, model: YesNoModel | None, failures: list[InputError]
) -> Iterator[dict[str, Any]]:
    for record in read_video_tar(tar):
        try:
            content = record.video.read(record.where)
            motion = measure_motion(content, record.where)
            objects = measure_object_motion(content, record.where)
            images = read_frames(content, record.where, FRAMES).images
            answers = np.zeros(0)
            if model is not None:
                answers = answer_questions(model, read_frames(content, record.where, QUESTION_FRAMES))
        except InputError as error:
            failures.append(error)
            continue
        row: dict[str, Any] = {"key": table_key(record), "digest": hashlib.sha256(content).hexdigest()}
        row |= {f"motion_{name}": value for name, value in vars(motion).items()}
        row |= {f"objects_{name}": value for name, value in objects.columns().items()}
        row |= {"frames": encoder.encode_images(images).tolist()}
        yield row | dict(zip(answer_columns() if model else [], answers.tolist(), strict=True))


def _schema(rows: list[dict[str, Any]], answered: bool) -> pa.Schema:
    motion = [(name, pa.float64()) for name in MOTION]
    answers = [(name, pa.float64()) for name in answer_columns()] if answered else []
    return pa.schema(
        [
            ("key", pa.string()),
            ("digest", pa.string()),
            *motion,
            ("motion_source", pa.string()),
            ("frames", pa.list_(pa.list_(pa.float32()))),
            *answers,
        ]
    )


def _made_by(path: Path) -> str | None:
    """Return what made a file; None if it is missing or damaged."""
    try:
        metadata = pq.read_table(path).schema.metadata or {}
        return metadata.get(b"made_by", b"").decode()
    except (OSError, ValueError, pa.ArrowException):
        return None


def answer_questions(model: YesNoModel, video: VideoFrames) -> np.ndarray:
    """Return the probability of "yes" for each of `QUESTIONS`, (26,) float64."""
    return model.yes_probabilities([ask(question + SUFFIX, [video]) for question in QUESTIONS.values()])


def answer_columns() -> Sequence[str]:
    """Return the names of the answers' columns, in the order of `answer_questions`."""
    return [f"answer_{name}" for name in QUESTIONS]
