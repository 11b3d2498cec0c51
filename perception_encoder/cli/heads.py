"""Heads' files, and media to predict on, for the commands that predict with a head."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.cli import default_model, output
from perception_encoder.cli.progress import track
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.models.registry import demo_note

if TYPE_CHECKING:
    from PIL import Image

    from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo
    from perception_encoder.models.tower import Tower

Predict = Callable[["Image.Image", "Shown"], "Image.Image"]
"""An image or a video's frame to what is drawn of it."""


@dataclass(frozen=True)
class MediaFile:
    """An input of a command."""

    path: Path
    name: str
    """Its path below the directory that all inputs share, with / between directories."""
    out: str
    """The same below the output directory, without the suffix that is added."""


@dataclass(frozen=True)
class Shown:
    """An image or a video's frame."""

    name: str
    """The file's, for a frame followed by its number."""
    out: str
    """The same for an output, without a suffix."""


def load_head(
    head: str | Path, task: str, model: str | None, classes: Path | None = None
) -> tuple[DenseModel, HeadInfo]:
    """Load a head for a task (a DETR is one for detection), with the encoder that it names, or with `model`.

    `head`: a file, or a built-in head's name. A published detector brings its own encoder, and `classes` names its
    classes. Raises what `open_head` does, and ConfigError for what does not go together.
    """
    from perception_encoder.dense_prediction.dense_model import METADATA, find_head, head_info, load_read_head
    from perception_encoder.dense_prediction.published_detectors import published_detector
    from perception_encoder.models.checkpoints.files import read_checkpoint

    path = find_head(head)
    tensors, metadata = read_checkpoint(path)
    if METADATA not in metadata and task == "detection":
        if model is not None:
            raise ConfigError(f"{path} has an encoder of its own; leave out --model")
        return published_detector(path, tensors, [] if classes is None else read_categories(classes))
    info = head_info(path, metadata, task)
    if classes is not None:
        raise ConfigError(f"{path} names its classes itself; leave out --classes")
    return load_read_head(path, info, tensors, tower_of, model)


def print_head_demo(head: str, model: str | None, info: HeadInfo) -> None:
    """Warn of a built-in head, or of a built-in encoder under the user's own head; `model`: what `-m` said."""
    own = not demo_note(head)
    default_model.print_demo((None if info.finetuned else model or info.encoder) if own else head)


def tower_of(name: str) -> Tower:
    """Load the tower of a model of any library."""
    from perception_encoder.inference.open_model import open_model

    return open_model(name).tower()


def read_categories(path: Path) -> list[tuple[int, str]]:
    """Read ids and names of classes in order: of annotations in COCO's format, or of a list, counted from 1.

    DataError for anything else.
    """
    from perception_encoder.datasets.class_names import read_class_names
    from perception_encoder.formats.entries import integer_field, list_objects, read_json, text_field

    value = read_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(value, dict) or "categories" not in value:
        return list(enumerate(read_class_names(str(path)).names, start=1))
    where = f"{path}: categories"
    entries = list_objects(value, "categories", path)
    return sorted((integer_field(each, "id", where), text_field(each, "name", where)) for each in entries)


def find_files(paths: Sequence[Path]) -> list[MediaFile]:
    """List images and videos, those of directories too, each once; DataError if there are none."""
    from perception_encoder.formats.media_directory import list_media

    files = [file for path in paths for file in (sorted(list_media(path)) if path.is_dir() else [path])]
    files = list(dict.fromkeys(files))
    if not files:
        raise DataError(f"no images or videos in {', '.join(map(str, paths))}")
    roots = [Path(os.path.abspath(path if path.is_dir() else path.parent)) for path in paths]
    shared = os.path.commonpath(roots)
    names = [Path(os.path.abspath(file)).relative_to(shared) for file in files]
    outs = [name.with_suffix("").as_posix() for name in names]
    often, taken = Counter(outs), frozenset(names)
    return [
        MediaFile(file, name.as_posix(), out if often[out] == 1 and Path(out) not in taken else name.as_posix())
        for file, name, out in zip(files, names, outs, strict=True)
    ]


def predict_files(
    files: Sequence[MediaFile], out: Path, predict: Predict, every: float
) -> tuple[int, list[InputError]]:
    """Predict on files; return how many images and frames there were, and what could not be read.

    Writes what `predict` draws of an image as OUT/NAME.png, and of a video's frames, each `every` seconds (0 for all),
    as OUT/NAME.mp4.
    """
    count, failures = 0, []
    for file in track(files, "predicting", len(files)):
        try:
            count += _predict_file(file, out, predict, every)
        except InputError as error:
            output.print_warning(str(error))
            failures.append(error)
    return count, failures


def _predict_file(file: MediaFile, out: Path, predict: Predict, every: float) -> int:
    from perception_encoder.layer_analysis.plots import write_image
    from perception_encoder.preprocess.image import open_image
    from perception_encoder.preprocess.media_types import VIDEO_SUFFIXES
    from perception_encoder.preprocess.video import frame_rate, sample_frames
    from perception_encoder.preprocess.video_writing import write_video

    path = file.path
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        drawn = predict(open_image(path).convert("RGB"), Shown(file.name, file.out))
        write_image(drawn, out / f"{file.out}.png")
        return 1
    frames: Iterator[Image.Image] = (frame.image for frame in sample_frames(path, every=every))
    first, count = next(frames), 0
    with write_video(out / f"{file.out}.mp4", first.size, 1 / every if every else frame_rate(path)) as add:
        for count, frame in enumerate(chain([first], frames), start=1):
            if frame.size != first.size:
                own, other = (f"{width}x{height}" for width, height in (frame.size, first.size))
                raise InputError(path.name, f"frame {count - 1} is of {own} pixels, the first of {other}")
            number = f"{count - 1:05d}"
            add(predict(frame, Shown(f"{file.name}/{number}", f"{file.out}/{number}")))
    return count
