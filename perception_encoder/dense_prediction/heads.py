"""Predict depth, classes or objects of images and videos with a head, as results and as files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from io import IOBase
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open

from perception_encoder.datasets.class_masks import BACKGROUND
from perception_encoder.dense_prediction.dense_model import METADATA, DenseModel, HeadInfo, head_info, load_dense_model
from perception_encoder.dense_prediction.depth import DepthHead
from perception_encoder.dense_prediction.detection.detections import (
    CocoResults,
    Detected,
    join_views,
    mirrored,
    read_categories,
)
from perception_encoder.dense_prediction.detection.detr import DetrHead
from perception_encoder.dense_prediction.detection.mask_rcnn import Detector
from perception_encoder.dense_prediction.predictions import (
    DepthEstimate,
    Detections,
    Segmentation,
    depth_png,
    mask_png,
    write_image,
)
from perception_encoder.dense_prediction.published_detectors import published_detector
from perception_encoder.dense_prediction.segmentation import SegmentationHead, label_regions, to_fractions
from perception_encoder.dense_prediction.tracking import maps_at
from perception_encoder.errors import ConfigError, DataError, InputError, OutputError
from perception_encoder.files import write_bytes
from perception_encoder.formats.entries import quoted
from perception_encoder.formats.media_directory import list_media
from perception_encoder.inference.load import load_layers
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.models.checkpoints.find import find_head
from perception_encoder.models.defaults import DefaultKind, chosen_model, default_model
from perception_encoder.models.libraries import load_tower
from perception_encoder.models.registry import canonical_name, demo_note, shown_name
from perception_encoder.preprocess.image import open_image
from perception_encoder.preprocess.media import open_media, resolve
from perception_encoder.preprocess.source import VIDEO_SUFFIXES
from perception_encoder.preprocess.video import frame_rate, sample_frames
from perception_encoder.preprocess.video_file import write_video
from perception_encoder.progress import Track, untracked

MediaInput = str | Path | bytes | Image.Image | np.ndarray
"""An image (a file, its bytes, a PIL image or an RGB array (H, W, 3)), a video, or a directory of them."""
Prediction = DepthEstimate | Segmentation | Detections


class Head:
    """A head on an encoder's layer, from images and videos to depth, classes or objects; `load_head` loads one.

    Examples:
        >>> (found,) = pe.load_head("builtin-detector").predict("photo.jpg", score=0.3)
    """

    def __init__(self, model: DenseModel, info: HeadInfo, name: str, encoder: str) -> None:
        """`name`: the file, or a built-in head; `encoder`: the name of the encoder."""
        self.model, self.info, self.name, self.encoder = model, info, name, encoder

    @property
    def task(self) -> str:
        return "detection" if self.info.task == "detr" else self.info.task

    @property
    def demo_model(self) -> str | None:
        """The built-in demo, if the head or its encoder is one."""
        if demo_note(self.name):
            return self.name
        return self.encoder if demo_note(self.encoder) and not self.info.finetuned else None

    def predict(
        self,
        media: MediaInput | Sequence[MediaInput],
        out: str | Path | None = None,
        *,
        every: float = 0.0,
        score: float = 0.5,
        views: Views | None = None,
        images: str | Path | None = None,
        skipped: list[InputError] | None = None,
        progress: Track = untracked,
    ) -> Iterator[Prediction]:
        """Yield a prediction for each image and each frame, in order; nothing runs before iteration starts.

        With `out`, files are written to this directory as the predictions are taken: of an image NAME.png, as `draw`
        returns it; of a video NAME.mp4; depths as 16-bit NAME.depth.png in millimetres (thousandths of the median);
        labels as NAME.mask.png; and all detections as detections.json and results.json, in COCO's format.

        Args:
            media: Images, videos, or directories of them.
            out: A directory.
            every: Seconds between a video's frames; 0 for all.
            score: Minimum score of a detector.
            views: Views of an image for a detector.
            images: Annotations in COCO's format whose ids the written detections have: of images by their file names,
                of classes by their names. Without it images have the numbers that are their names, or 1, 2, 3 … in
                order (logged), and classes the head's.
            skipped: Collects the errors of unreadable inputs; by default the first one raises.

        Raises:
            InputError: An input cannot be read.
            DataError: There are no images or videos, or `images` does not list each one.
        """
        inputs, directory = list_dense_inputs(media), None if out is None else Path(out)
        files = {item.name: item.source for item in inputs}
        results = CocoResults(self.info.categories, files, None if images is None else Path(images))
        predict = partial(self._predict, score=score, views=views)
        for item in progress(inputs, "predicting", len(inputs)):
            try:
                for prediction in _predict_input(item, predict, directory, every):
                    if isinstance(prediction, Detections):
                        results.add(prediction.name, prediction.image.size, prediction, prediction.time)
                    yield prediction
            except InputError as error:
                if skipped is None:
                    raise
                skipped.append(error)
        if directory is not None and self.task == "detection":
            results.write(directory)

    @torch.inference_mode()
    def _predict(self, image: Image.Image, name: str, score: float = 0.5, views: Views | None = None) -> Prediction:
        head, info = self.model.head, self.info
        if isinstance(head, Detector | DetrHead):
            found = detect_objects(self.model, image, info.image_size, views).above(score)
            categories = tuple((item["id"], item["name"]) for item in info.categories)
            return Detections(**vars(found), name=name, image=image, categories=categories)
        features = self.model.map_of(image, info.image_size)
        predicted = head.predict(features, (image.height, image.width))[0].cpu().numpy()
        if isinstance(head, DepthHead):
            values = predicted / np.median(predicted) if info.relative else predicted
            return DepthEstimate(name=name, image=image, depth=values, relative=info.relative)
        assert isinstance(head, SegmentationHead)
        first = 0 if info.classes[0] == BACKGROUND else 1
        return Segmentation(
            name=name,
            image=image,
            labels=np.asarray(predicted + first),
            model=shown_name(self.encoder) or self.encoder,
            head=self.name,
            names=dict(enumerate(info.classes, start=first)),
        )


def load_head(
    path: str | Path, *, task: str | None = None, model: str | Path | None = None, classes: str | Path | None = None
) -> Head:
    """Load a head with its encoder.

    Args:
        path: builtin-depth, builtin-detector, a file of `pe train`, or a detector of facebook/PE-Detection.
        task: "depth", "segmentation" or "detection"; by default the head's.
        model: The encoder, by default the one that the head names; a file that names anything but a model of this
            package needs it, and a published detector includes its own.
        classes: Annotations in COCO's format with the names for a published detector with other classes than COCO's.

    Returns:
        The head, ready to predict.

    Raises:
        CheckpointError: The file is not a head, or is damaged.
        ConfigError: The head has another task, an encoder with other weights, or does not take an argument.

    Examples:
        >>> head = pe.load_head("runs/detector/head.safetensors")
        >>> (found,) = head.predict("photo.jpg")
    """
    file = find_head(path)
    tensors, metadata = read_checkpoint(file)
    if METADATA not in metadata and task in (None, "detection"):
        if model is not None:
            raise ConfigError(f"{file} includes its encoder; omit the model")
        names = [] if classes is None else read_categories(Path(classes))
        return Head(*published_detector(file, tensors, names), str(path), file.name)
    info = head_info(file, metadata, task)
    if classes is not None:
        raise ConfigError(f"{file} has its own class names; omit classes")
    if model is None and canonical_name(info.encoder) is None:  # a file must not choose foreign code or other files
        raise ConfigError(
            f"{file} names the encoder {quoted(info.encoder)}, which is not a model of this package; if you trust it, "
            "name it yourself with --model"
        )
    dense = load_dense_model(file, info, tensors, load_tower(model or info.encoder))
    return Head(dense, info, str(path), str(model or info.encoder))


def is_head(name: str | Path) -> bool:
    """Return whether a name is a built-in head or the path of a head file."""
    if find_head(name) != Path(name):
        return True
    try:
        with safe_open(name, framework="pt") as file:
            return METADATA in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _as_head(
    head: str | Path | Head | None, task: DefaultKind, model: str | Path | None, classes: str | Path | None = None
) -> Head:
    if isinstance(head, Head):
        if head.task != task:
            raise ConfigError(f"{head.name} is a head for {head.task}, not for {task}")
        return head
    return load_head(head or default_model(task), task=task, model=model, classes=classes)


def depth(
    media: MediaInput | Sequence[MediaInput],
    out: str | Path | None = None,
    *,
    head: str | Path | Head | None = None,
    model: str | Path | None = None,
    every: float = 0.0,
    skipped: list[InputError] | None = None,
    progress: Track = untracked,
) -> Iterator[DepthEstimate]:
    """Yield the depth of each image and frame; with `out`, also write it.

    Args:
        media, out: See `Head.predict`.
        head: A depth head or its file; by default the one chosen with `pe models use`, else builtin-depth, a demo whose
            depth is relative.
        model: Its encoder; by default the one that it names.
        every: Seconds between a video's frames; 0 for all.
        skipped: See `Head.predict`.

    Examples:
        >>> (photo,) = pe.depth("photo.jpg")
        >>> print(photo.depth.min(), photo.unit)
    """
    loaded = _as_head(head, "depth", model)
    predictions = loaded.predict(media, out, every=every, skipped=skipped, progress=progress)
    return cast(Iterator[DepthEstimate], predictions)


def detect(
    media: MediaInput | Sequence[MediaInput],
    out: str | Path | None = None,
    *,
    head: str | Path | Head | None = None,
    model: str | Path | None = None,
    score: float = 0.5,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    soft_nms: bool = False,
    paper_views: bool = False,
    classes: str | Path | None = None,
    every: float = 0.0,
    images: str | Path | None = None,
    skipped: list[InputError] | None = None,
    progress: Track = untracked,
) -> Iterator[Detections]:
    """Yield the objects in each image and frame; with `out`, also write them.

    Args:
        media, out: See `Head.predict`.
        head: A detector or its file; by default the one chosen with `pe models use`, else builtin-detector, a demo.
        model: See `load_head`.
        score: Minimum score.
        scales: Also detect in larger and smaller views. Several views give no masks.
        flip: Also detect in mirrored views.
        soft_nms: Lower the scores of overlapping detections, instead of dropping them.
        paper_views: Use the views of the paper's best result.
        classes: See `load_head`.
        every: Seconds between a video's frames; 0 for all.
        images: Your annotations in COCO's format, whose ids are to be written.
        skipped: See `Head.predict`.

    Examples:
        >>> for found in pe.detect("photos", "detected", score=0.3):
        ...     print(found.name, len(found.boxes))
    """
    loaded = _as_head(head, "detection", model, classes)
    views = Views.paper() if paper_views else Views(scales, flip, SOFT if soft_nms else None)
    predictions = loaded.predict(
        media, out, every=every, score=score, views=views, images=images, skipped=skipped, progress=progress
    )
    return cast(Iterator[Detections], predictions)


def segment(
    image: MediaInput,
    out: str | Path | None = None,
    *,
    points: Sequence[tuple[float, float]] = (),
    head: str | Path | Head | None = None,
    model: str | Path | None = None,
    layer: int = -1,
    short_side: int = 480,
    overwrite: bool = False,
) -> Segmentation:
    """Segment an image by points, without training, or into classes by a head.

    Args:
        image: A file, its bytes, a PIL image or an RGB array (H, W, 3).
        out: A PNG file for the drawn image; OUT.mask.png beside it has the labels.
        points: x and y, in pixels or from 0 to 1. A region is where the cosine similarity of the features to the
            point's is above a threshold chosen per image (Otsu's), and may have several parts; a later one covers an
            earlier one.
        head: A segmentation head or its file; without points by default the one chosen with `pe models use`.
        model: By default the one chosen with `pe models use`, else builtin-spatial, a demo.
        layer: 0-based, or negative from the end.
        short_side: Pixels of the image's short side for the encoder.
        overwrite: Replace existing files.

    Returns:
        The regions or classes, and the label of each pixel.

    Raises:
        ConfigError: A point is outside the image, or there are both points and a head.
        DataError: No object is found at a point.
        OutputError: A file exists.

    Examples:
        >>> pe.segment("cup.jpg", points=[(0.4, 0.5)]).regions[0].area
    """
    if head is None and not points:
        head = chosen_model("segmentation")
    if bool(points) == (head is not None):
        raise ConfigError("choose what to segment: points, or a head of pe train segmenter, as none is built in")
    if out is not None and not overwrite:
        for path in (Path(out), Path(out).with_suffix(".mask.png")):
            if path.exists():
                raise OutputError(f"{path} exists; choose another name, or set overwrite to replace it")
    item, *others = list_dense_inputs(image)
    if others:
        raise ConfigError(f"there are {1 + len(others)} images and videos; segment one image at a time")
    pixels = item.open()
    if head is not None:
        loaded = _as_head(head, "segmentation", model)
        result = cast(Segmentation, loaded._predict(pixels, item.source))
    else:
        name = str(model or default_model("spatial"))
        positions = [to_fractions(point, pixels.size) for point in points]
        maps = maps_at(load_layers(name, layer=layer), [pixels], short_side)
        labels = label_regions(maps[0], positions, pixels.size)
        shown = shown_name(name) or name
        result = Segmentation(name=item.source, image=pixels, labels=labels, model=shown)
    if out is not None:
        _write(result, Path(out).with_suffix(""), Path(out))
    return result


@dataclass(frozen=True)
class _Input:
    media: Path | Image.Image
    name: str  # path relative to the inputs' common directory, with / between directories
    out: str  # path in the output directory, without a suffix

    @property
    def source(self) -> str:
        return str(self.media) if isinstance(self.media, Path) else self.name

    def open(self) -> Image.Image:
        return (open_image(self.media) if isinstance(self.media, Path) else self.media).convert("RGB")


def list_dense_inputs(media: MediaInput | Sequence[MediaInput]) -> list[_Input]:
    """List images and videos in order, those in directories too, without duplicates.

    DataError if there are none, InputError for another kind of input.
    """
    items = list(media) if isinstance(media, Iterable) and not isinstance(media, MediaInput | IOBase) else [media]
    paths = [Path(item) for item in items if isinstance(item, str | Path)]
    roots = [os.path.abspath(path if path.is_dir() else path.parent) for path in paths]
    found: dict[Path, Path | Image.Image] = {}  # by name; of an image in memory, its number
    for number, item in enumerate(items):
        if isinstance(item, str | Path):
            for file in sorted(list_media(Path(item))) if os.path.isdir(item) else [Path(item)]:
                found.setdefault(Path(os.path.relpath(file, os.path.commonpath(roots))), file)
        elif isinstance(item, MediaInput):
            image = open_media(resolve(item, name=f"input {number}", kind="image"))
            found[Path(f"{len(found):05d}")] = cast(Image.Image, image)
        else:
            allowed = "a path, an image's bytes, a PIL image or a uint8 array (H, W, 3)"
            raise InputError(f"input {number}", f"is of type {type(item).__name__}; give {allowed}")
    stems = Counter(name.with_suffix("") for name in found)
    inputs = []
    for name, entry in found.items():
        out = name.with_suffix("")
        inputs.append(_Input(entry, name.as_posix(), (name if stems[out] > 1 or out in found else out).as_posix()))
    if not inputs:
        raise DataError(f"no images or videos in {', '.join(map(str, paths)) or 'an empty list'}")
    return inputs


def _predict_input(
    item: _Input, predict: Callable[[Image.Image, str], Prediction], out: Path | None, every: float
) -> Iterator[Prediction]:
    path = item.media
    if not isinstance(path, Path) or path.suffix.lower() not in VIDEO_SUFFIXES:
        prediction = predict(item.open(), item.name)
        if out is not None:
            _write(prediction, out / item.out, out / f"{item.out}.png")
        yield prediction
        return
    frames = sample_frames(path, every=every)
    first = next(frames)
    with ExitStack() as stack:
        add = None
        if out is not None:
            rate = 1 / every if every else frame_rate(path)
            add = stack.enter_context(write_video(out / f"{item.out}.mp4", first.image.size, rate))
        for number, frame in enumerate(chain([first], frames)):
            if frame.image.size != first.image.size:
                given, expected = (f"{one.image.width}x{one.image.height}" for one in (frame, first))
                raise InputError(path.name, f"frame {number} has {given} pixels, the first frame {expected}")
            prediction = replace(predict(frame.image, f"{item.name}/{number:05d}"), time=frame.time)
            if add is not None and out is not None:
                _write(prediction, out / item.out / f"{number:05d}")
                add(prediction.draw())
            yield prediction


def _write(prediction: Prediction, stem: Path, drawn: Path | None = None) -> None:
    """Write a prediction's drawing, and its depth or mask as STEM.depth.png or STEM.mask.png."""
    if drawn is not None:
        write_image(prediction.draw(), drawn)
    if isinstance(prediction, DepthEstimate):
        write_bytes(stem.with_name(f"{stem.name}.depth.png"), depth_png(prediction.depth))
    elif isinstance(prediction, Segmentation):
        write_bytes(stem.with_name(f"{stem.name}.mask.png"), mask_png(prediction.labels))


SOFT = 0.5  # exponent of soft-NMS: the published scripts' default
OVERLAP = 0.7  # minimum IoU of two views' detections of the same object


@dataclass(frozen=True)
class Views:
    """Views of an image for a detector (test-time augmentation)."""

    scales: Sequence[float] = (1.0,)  # scales relative to the training size
    flip: bool = False  # also mirror each view
    soft: float | None = None
    """Multiply the scores of overlapping detections by (1 - IoU) to this power (soft-NMS) instead of dropping them."""
    least: Sequence[float] = ()
    """By scale: keep only detections larger than a square of this side, in stored pixels."""
    queries: int | None = None  # number of queries of a DETR; by default as in training

    @classmethod
    def paper(cls) -> Views:
        """Return the views of the paper's best result, 66.0 AP (B.3.5), as in DETA's published script.

        Longer sides are 1792 (in squares of 1824 with a margin of 32), 1728, 1536 and 1344; all are mirrored too.
        """
        scales = tuple(side / 1792 for side in (1792, 1728, 1536, 1344))
        return cls(scales=scales, flip=True, soft=0.4, least=(0.0, 0.0, 64.0, 64.0), queries=2000)

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) <= 0:
            raise ConfigError(f"scales are {list(self.scales)}; at least one is needed, and all must be above 0")


def detect_objects(model: DenseModel, image: Image.Image, image_size: int, views: Views | None = None) -> Detected:
    """Detect objects in an image whose longer side is scaled to `image_size`, in one view or several.

    Only a single view has masks. Raises ConfigError for a head that is not a detector.
    """
    views = views or Views()
    head, inputs = model.head, model.backbone.inputs
    if not isinstance(head, Detector | DetrHead):
        raise ConfigError(f"a {type(head).__name__} cannot detect objects")
    detect: Any = head.detect
    if isinstance(head, DetrHead):
        detect = partial(detect, soft=views.soft, queries=views.queries)
    margin = 0 if inputs is None else inputs.margin
    results: list[Detected] = []
    for number, scale in enumerate(views.scales):
        side = max(1, round(scale * (image_size - margin))) + margin
        for turned in (False, True)[: 1 + views.flip]:
            features = model.map_of(ImageOps.mirror(image) if turned else image, side)
            (view,) = detect(features, [(image.height, image.width)], model.valid_sizes(image.size, side))
            if views.least:
                width, height = (view.boxes[:, 2:] - view.boxes[:, :2]).T
                view = view.select(width * height > views.least[number] ** 2)
            results.append(mirrored(view, image.width) if turned else view)
    single = len(results) == 1 and views.soft is None
    return results[0] if single else join_views(results, OVERLAP, views.soft)
