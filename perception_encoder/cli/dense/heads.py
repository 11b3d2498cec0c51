"""Heads' files, and media to predict on, for the commands that predict with a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.cli import default_model, output
from perception_encoder.cli.progress import track
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.models.catalogue import demo_note

if TYPE_CHECKING:
    from PIL import Image

    from perception_encoder.dense_prediction.dense_model import DenseModel, HeadInfo

Predict = Callable[["Image.Image", str], "Image.Image"]
"""An image and its name, NAME or of a video's frame NAME/00000, to what is drawn of it."""


def load_head(
    head: str | Path, task: str, model: str | None, classes: Path | None = None
) -> tuple[DenseModel, HeadInfo]:
    """Load a head for a task (a DETR is one for detection), with the encoder that it names, or with `model`.

    `head`: a file, or a built-in head's name. A published detector brings its own encoder, and `classes` names its
    classes. Raises ConfigError for a head of another task or of another encoder, and CheckpointError.
    """
    from perception_encoder.dense_prediction.dense_model import METADATA, find_head, head_info, load_dense_model
    from perception_encoder.dense_prediction.published.detectors import published_detector
    from perception_encoder.inference.open_model import open_model
    from perception_encoder.models.checkpoints.files import read_checkpoint

    path = find_head(head)
    tensors, metadata = read_checkpoint(path)
    if METADATA not in metadata and task == "detection":
        if model is not None:
            raise ConfigError(f"{path} has an encoder of its own; leave out --model")
        return published_detector(path, tensors, () if classes is None else read_names(classes))
    info = head_info(path, metadata, task)
    if classes is not None:
        raise ConfigError(f"{path} names its classes itself; leave out --classes")
    return load_dense_model(path, info, tensors, open_model(model or info.encoder).tower()), info


def print_head_demo(head: str, model: str | None, info: HeadInfo) -> None:
    """Warn of a built-in head, or of a built-in encoder under the user's own head; `model`: what `-m` said."""
    own = not demo_note(head)
    default_model.print_demo((None if info.finetuned else model or info.encoder) if own else head)


def read_names(path: Path) -> tuple[str, ...]:
    """Read names of classes in order: of annotations in COCO's format, or a list; DataError for anything else."""
    from perception_encoder.datasets.class_names import read_class_names
    from perception_encoder.formats.entries import integer_field, list_objects, read_json, text_field

    value = read_json(path) if path.suffix.lower() == ".json" else None
    if not isinstance(value, dict) or "categories" not in value:
        return read_class_names(str(path)).names
    entries = list_objects(value, "categories", path)
    entries.sort(key=lambda each: integer_field(each, "id", f"{path}: categories"))
    return tuple(text_field(each, "name", f"{path}: categories") for each in entries)


def find_files(paths: Sequence[Path]) -> list[Path]:
    """List images and videos, those of directories too; DataError if there are none, or two have one name."""
    from perception_encoder.formats.media_directory import list_media

    files = [file for path in paths for file in (sorted(list_media(path)) if path.is_dir() else [path])]
    if not files:
        raise DataError(f"no images or videos in {', '.join(map(str, paths))}")
    names: dict[str, Path] = {}
    for file in files:
        if names.setdefault(file.stem, file) != file:
            raise DataError(f"{names[file.stem]} and {file} would be written under one name; predict on them apart")
    return files


def predict_files(files: Sequence[Path], out: Path, predict: Predict, every: float) -> tuple[int, list[InputError]]:
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


def _predict_file(path: Path, out: Path, predict: Predict, every: float) -> int:
    from perception_encoder.layer_analysis.plots import write_image
    from perception_encoder.preprocess.image import open_image
    from perception_encoder.preprocess.media_types import VIDEO_SUFFIXES
    from perception_encoder.preprocess.video import frame_rate, sample_frames
    from perception_encoder.preprocess.video_writing import write_video

    if path.suffix.lower() not in VIDEO_SUFFIXES:
        write_image(predict(open_image(path).convert("RGB"), path.stem), out / f"{path.stem}.png")
        return 1
    frames: Iterator[Image.Image] = (frame.image for frame in sample_frames(path, every=every))
    first, count = next(frames), 0
    with write_video(out / f"{path.stem}.mp4", first.size, 1 / every if every else frame_rate(path)) as add:
        for count, frame in enumerate(chain([first], frames), start=1):
            if frame.size != first.size:
                own, other = (f"{width}x{height}" for width, height in (frame.size, first.size))
                raise InputError(path.name, f"frame {count - 1} is of {own} pixels, the first of {other}")
            add(predict(frame, f"{path.stem}/{count - 1:05d}"))
    return count
