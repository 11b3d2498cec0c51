"""`pe track`, `segment`, `depth` and `detect`: dense predictions for images and videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.options import HEAD, QUERY, VIDEO, argument, flag, numbers, option, out_option
from perception_encoder.cli.progress import track as show_progress
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.models.registry import shown_name

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from perception_encoder.dense_prediction.dense_model import HeadInfo
    from perception_encoder.dense_prediction.tracking import LayerOf

LAYER = "Layer whose features are used, 0-based; -1 is the last."
Paths = Annotated[list[Path], argument("FILES", "Images, videos and directories of them.")]
Every = Annotated[float, option("Seconds between a video's frames; 0 for all.", "S", VIDEO, least=0)]
Layer = Annotated[int, option(LAYER, "N")]
DIRECTORY_RATE = 24.0
"""Frames a second of the video that is written for a directory of frames, as DAVIS's videos have."""
BOX = "Object in a box of the first frame: LEFT,TOP,RIGHT,BOTTOM in pixels or from 0 to 1; repeat for more."
LIKE = "A point, X,Y in pixels or from 0 to 1; repeat for several regions."
THRESHOLD = "Minimum cosine similarity to the point [default: chosen per image (Otsu)]."
DEPTH_HEAD = "A file of `pe train depth`, or builtin-depth, a demo [default: see `pe models use`]."
DETECTOR_HEAD = "A detector's file, or builtin-detector, a demo [default: see `pe models use`]."
PAPER_VIEWS = """The views of the paper's best result, for DETA: four scales, mirrored, --soft-nms and 2,000 queries."""
ANNOTATIONS = """A dataset's annotations, in COCO's format, whose image ids results.json then has [default: the numbers
that all images are named by, as COCO's are, or else counted from 1]."""


def load_layer(model: str, layer: int) -> LayerOf:
    """Load a model and choose its layer; ConfigError for a layer that it lacks."""
    from perception_encoder.dense_prediction.tracking import LayerOf
    from perception_encoder.inference.layer_encoder import resolve_layers
    from perception_encoder.inference.open_model import load_layer_encoder

    encoder = load_layer_encoder(model)
    (number,) = resolve_layers(encoder, [layer])
    return LayerOf(encoder, number)


def read_position(text: str, name: str, count: int, size: tuple[int, int]) -> tuple[float, ...]:
    """Read a point's or a box's `count` numbers, x before y, as shares of an image's `size` (width, height).

    Numbers up to 1 are shares already, others pixels. ConfigError for anything else, and a position outside the image.
    """
    form = "X,Y" if count == 2 else "LEFT,TOP,RIGHT,BOTTOM"
    try:
        values = numbers(text)
    except (ConfigError, ValueError):
        values = []
    if len(values) != count:
        raise ConfigError(f"{name} is {text!r}; it must be {form}, in pixels or from 0 to 1")
    sides: Sequence[int] = size * (count // 2) if max(values) > 1 else (1,) * count
    shares = tuple(value / side for value, side in zip(values, sides, strict=True))
    if not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"{name} is {text!r}, which is not inside the image of {size[0]}x{size[1]} pixels")
    return shares


def track(
    video: Annotated[Path, argument("VIDEO", "A video, or a directory of its frames.")],
    out: Annotated[Path, out_option("Directory for masks, overlay and boxes.", "DIR")],
    mask: Annotated[Path | None, option("PNG of the first frame's objects, numbered.", "FILE", QUERY)] = None,
    box: Annotated[list[str] | None, option(BOX, "BOX", QUERY)] = None,
    point: Annotated[list[str] | None, option("Object at X,Y of the first frame; repeat.", "X,Y", QUERY)] = None,
    model: Annotated[str | None, shared.model_option("see `pe models use`", "timm:NAME; hf:NAME")] = None,
    layer: Layer = -1,
    short_side: Annotated[
        int, option("Pixels of the frames' short side for the encoder.", panel=VIDEO, least=16)
    ] = 480,
    overlay: Annotated[bool, flag("--overlay/--no-overlay", "Also write the video with its objects.")] = True,
    json: shared.Json = False,
) -> None:
    """Follow objects through a video.

    They are given in its first frame by a mask, boxes or points. Nothing is trained: patches of a frame get the labels
    of the patches that they resemble in the first and the last seven frames. Writes OUT/NAME/00000.png and so on
    (objects' numbers, in DAVIS's layout), OUT/NAME.mp4 and OUT/NAME.json (boxes and areas). Memory does not grow with
    the video's length.

    Examples:

        pe track clip.mp4 --box 120,80,260,300 -o tracked
        pe track clip.mp4 --point 0.4,0.5 --point 0.8,0.5 -o tracked
        pe track DAVIS/JPEGImages/480p/dog --mask DAVIS/Annotations/480p/dog/00000.png -o results
        pe track clip.mp4 --mask first.png -m PE-Spatial-L14-448 -o tracked
    """
    from perception_encoder.dense_prediction.tracking import check_tracking_output, track_objects, write_tracking

    if bool(mask) == bool(box or point):
        raise ConfigError("say what to follow: --mask FILE, or --box or --point (as often as there are objects)")
    check_tracking_output(out, video.stem)
    names, rate, frames = open_frames(video)
    first = next(frames, None)
    if first is None:
        raise DataError(f"{video} has no frames")
    model = model or default_model.default_model("spatial")
    chosen = load_layer(model, layer)
    labels = read_mask(mask) if mask else label_positions(first, chosen, short_side, box or [], point or [])
    tracked = track_objects(chain([first], frames), labels, chosen, short_side)
    about = {"video": video.name, "model": chosen.encoder.name, "layer": chosen.layer}
    total = None if names is None else len(names)
    described = write_tracking(show_progress(tracked, "tracking", total), out, video.stem, rate, about, overlay, names)
    default_model.print_demo(model)
    if json:
        output.print_json(described)
        return
    count, last = len(set(labels[labels > 0].tolist())), described["frames"][-1]
    lost = count - len(last["objects"])
    ended = f"; {lost} not in the last one" if lost else ""
    output.print_line(
        f"{count} object{'s' * (count > 1)} in {len(described['frames'])} frames{ended}: {out / video.stem}"
    )


def open_frames(video: Path) -> tuple[list[str] | None, float, Iterator[Image.Image]]:
    """Return the names of frames in a directory (None for a video), frames a second, and the frames."""
    from perception_encoder.preprocess.image import open_image
    from perception_encoder.preprocess.media_types import IMAGE_SUFFIXES
    from perception_encoder.preprocess.video import frame_rate, sample_frames

    if not video.is_dir():
        return None, frame_rate(video), (frame.image for frame in sample_frames(video, every=0))
    files = sorted(path for path in video.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return [file.stem for file in files], DIRECTORY_RATE, (open_image(file).convert("RGB") for file in files)


def read_mask(path: Path) -> np.ndarray:
    """Read the numbers of a mask's objects, 0 elsewhere; DataError for a mask without one."""
    import numpy as np

    from perception_encoder.datasets.masked_videos import VOID, read_object_mask

    pixels = read_object_mask(path, str(path))
    labels = np.where(pixels == VOID, 0, pixels).astype(np.int64)
    if not labels.any():
        raise DataError(f"{path} is empty: no pixel has an object's number, 1 to 254")
    return labels


def label_positions(
    first: Image.Image, model: LayerOf, short_side: int, boxes: list[str], points: list[str]
) -> np.ndarray:
    """Number the objects in boxes, then those at points, from 1; a later one lies on top."""
    import numpy as np

    from perception_encoder.dense_prediction.regions import region_in_box, region_like, to_mask

    features = model.maps([first], short_side)[0]
    labels = np.zeros((first.height, first.width), np.int64)
    for number, text in enumerate([*boxes, *points], start=1):
        if number <= len(boxes):
            left, top, right, bottom = read_position(text, "--box", 4, first.size)
            mask = to_mask(region_in_box(features, (left, top, right, bottom)), first.size)
        else:
            x, y = read_position(text, "--point", 2, first.size)
            mask = to_mask(region_like(features, (x, y)), first.size)
        if not mask.any():
            raise DataError(f"no object was found at {text}; draw its mask, or choose another position")
        labels[mask] = number
    return labels


def segment(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    out: Annotated[Path, out_option("PNG: the regions over the image; OUT.mask.png: their numbers.")],
    like: Annotated[list[str] | None, option(LIKE, "X,Y", QUERY)] = None,
    threshold: Annotated[float | None, option(THRESHOLD, "COSINE", QUERY)] = None,
    head: Annotated[str | None, option("Head's file, as `pe train segmenter` writes it.", "FILE", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("see `pe models use`", "timm:NAME; hf:NAME")] = None,
    layer: Layer = -1,
    short_side: Annotated[int, option("Pixels of the short side for the encoder.", least=16)] = 480,
    json: shared.Json = False,
) -> None:
    """Segment an image by points or by a head.

    With --like, a region is where the features' cosine with those of the point is above a threshold, and may have
    several parts; --layer and --short-side say how it is encoded. With --head, each pixel gets a class. Prints each
    region's number or class, and its share of the image.

    Examples:

        pe segment cup.jpg --like 0.4,0.5 -o cup.png
        pe segment street.jpg --like 120,300 --like 400,80 --threshold 0.6 -o regions.png
        pe segment cup.jpg --like 0.4,0.5 -m PE-Spatial-L14-448 -o cup.png --json
        pe segment room.jpg --head runs/segmenter/head.safetensors -o room.png
    """
    from perception_encoder.dense_prediction.drawing import draw_objects, mask_png
    from perception_encoder.dense_prediction.tracking import describe_objects
    from perception_encoder.files import writing
    from perception_encoder.layer_analysis.plots import write_image
    from perception_encoder.preprocess.image import open_image

    head = head or (None if like else default_model.chosen_model("segmentation"))
    if bool(like) == bool(head):
        raise ConfigError("say what to segment: --like X,Y (as often as there are regions), or --head FILE")
    opened = open_image(image).convert("RGB")
    if head is not None:
        labels, names, info = segment_classes(opened, head, model)
        name = model or info.encoder
    else:
        name = model or default_model.default_model("spatial")
        labels, names = segment_regions(opened, like or [], threshold, name, layer, short_side), {}
    write_image(draw_objects(opened, labels), out)
    mask = out.with_suffix(".mask.png")
    with writing(mask):
        mask.write_bytes(mask_png(labels))
    regions = [{**each, "name": names.get(each["id"], str(each["id"]))} for each in describe_objects(labels)]
    default_model.print_demo(None if head is not None and info.finetuned else name)
    if json:
        about = {"image": str(image), "model": shown_name(name) or name}
        output.print_json({**about, **({} if head is None else {"head": head}), "regions": regions})
        return
    for each in regions:
        output.print_fields(each["name"], f"{100 * each['area'] / labels.size:.1f} %")
    output.print_line(f"written: {out}, {mask}")


def segment_regions(
    image: Image.Image, points: list[str], threshold: float | None, model: str, layer: int, short_side: int
) -> np.ndarray:
    """Number the regions that look like points, from 1; a later one is on top."""
    from perception_encoder.dense_prediction.regions import label_regions

    chosen = load_layer(model, layer)
    positions = [(x, y) for x, y in (read_position(text, "--like", 2, image.size) for text in points)]
    return label_regions(chosen.maps([image], short_side)[0], positions, image.size, threshold)


def segment_classes(image: Image.Image, head: str, model: str | None) -> tuple[np.ndarray, dict[int, str], HeadInfo]:
    """Return each pixel's class, the classes' names, and what the head is; a class called background is 0."""
    import numpy as np

    from perception_encoder.cli.heads import load_head
    from perception_encoder.datasets.class_masks import BACKGROUND
    from perception_encoder.dense_prediction.segmentation import SegmentationHead

    loaded, info = load_head(head, "segmentation", model)
    assert isinstance(loaded.head, SegmentationHead)
    predicted = loaded.head.predict(loaded.map_of(image, info.image_size), (image.height, image.width))[0].cpu().numpy()
    first = 0 if info.classes[0] == BACKGROUND else 1
    return np.asarray(predicted + first), dict(enumerate(info.classes, start=first)), info


def depth(
    files: Paths,
    out: Annotated[Path, out_option("Directory for colour maps and depths.", "DIR")],
    head: Annotated[str | None, option(DEPTH_HEAD, "HEAD", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("the head's own")] = None,
    every: Every = 0.0,
    strict: shared.Strict = False,
) -> None:
    """Estimate the depth of images and videos.

    Writes OUT/NAME.png, a colour map in which near is bright (of a video OUT/NAME.mp4), and OUT/NAME.depth.png, 16 bits
    in millimetres (of a video OUT/NAME/00000.depth.png and so on). Prints each image's nearest, median and farthest
    depth in metres. The depth of builtin-depth, and of heads trained with scale_invariance 1, is relative: shares of an
    image's median depth, in the PNG thousandths of it. Inputs that cannot be read are skipped and listed.

    Examples:

        pe depth photo.jpg -o depths
        pe depth photos/ clip.mp4 --every 0.5 -o depths
        pe train depth --data rgbd -o runs/depth
        pe depth photo.jpg --head runs/depth/head.safetensors -o depths
    """
    import numpy as np
    import torch
    from PIL import Image

    from perception_encoder.cli import heads
    from perception_encoder.dense_prediction.depth import DepthHead
    from perception_encoder.dense_prediction.drawing import depth_colours, depth_png
    from perception_encoder.files import writing

    head, media = head or default_model.default_model("depth"), heads.find_files(files)
    loaded, info = heads.load_head(head, "depth", model)
    assert isinstance(loaded.head, DepthHead)
    predictor = loaded.head

    def predict(image: Image.Image, shown: heads.Shown) -> Image.Image:
        features = loaded.map_of(image, info.image_size)
        metres = predictor.predict(features, (image.height, image.width))[0].cpu().numpy()
        depth, unit = (metres / np.median(metres), "of the median") if info.relative else (metres, "m")
        path = out / f"{shown.out}.depth.png"
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(depth_png(depth))
        output.print_fields(shown.name, *(f"{each:.2f} {unit}" for each in np.percentile(depth, (0, 50, 100))))
        return Image.fromarray(depth_colours(metres))

    with torch.inference_mode():
        count, failures = heads.predict_files(media, out, predict, every)
    heads.print_head_demo(head, model, info)
    raise typer.Exit(output.input_status(failures, count + len(failures), strict))


def detect(
    files: Paths,
    out: Annotated[Path, out_option("Directory for drawn images, detections.json and results.json.", "DIR")],
    head: Annotated[str | None, option(DETECTOR_HEAD, "HEAD", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("the detector's own")] = None,
    score: Annotated[float, option("Minimum score of a detection.", "SCORE", HEAD, least=0)] = 0.5,
    scales: Annotated[str, option("Also at these factors of the detector's size.", "N,N,...", HEAD)] = "1",
    flip: Annotated[bool, flag("--flip", "Also mirrored.", HEAD)] = False,
    soft: Annotated[bool, flag("--soft-nms", "Lower the scores of doubles, rather than drop them.", HEAD)] = False,
    paper_views: Annotated[bool, flag("--paper-views", PAPER_VIEWS, HEAD)] = False,
    classes: Annotated[Path | None, option("Names for a published detector of other classes.", "FILE", HEAD)] = None,
    annotations: Annotated[Path | None, option(ANNOTATIONS, "FILE")] = None,
    every: Every = 0.0,
    json: shared.Json = False,
    strict: shared.Strict = False,
) -> None:
    """Detect objects in images and videos.

    Writes OUT/NAME.png with boxes, names and masks (of a video OUT/NAME.mp4). OUT/detections.json has images,
    categories and annotations in COCO's format, as supervision reads it; OUT/results.json is the plain list that
    pycocotools' loadRes reads: set --score 0 to evaluate. Files are named relative to the directory that all inputs
    share, and categories have the ids of the dataset that the detector learned from. Prints each object's image, class,
    score and box. --scales and --flip detect in several views of an image and join what they show, without masks.
    Inputs that cannot be read are skipped and listed. --head may be a detector of facebook/PE-Detection, which brings
    its encoder; --classes names the classes of one for LVIS, by LVIS's annotations or a list.

    Examples:

        pe detect photo.jpg -o detected
        pe train detector --data coco -o runs/detector
        pe detect photos/ clip.mp4 --head runs/detector/head.safetensors --every 0.5 -o detected
        pe detect photo.jpg --head deta_coco_1824pix.pth -o detected
        pe detect photos/ --head runs/detr/head.safetensors --scales 0.8,1,1.2 --flip -o detected
    """
    import torch

    from perception_encoder.cli import heads
    from perception_encoder.dense_prediction.detection.detections import CocoResults, numbered_names, read_image_ids
    from perception_encoder.dense_prediction.detection.detr import DetrHead
    from perception_encoder.dense_prediction.drawing import draw_detections
    from perception_encoder.dense_prediction.views import PAPER_QUERIES, Views, detect_objects

    head, media = head or default_model.default_model("detection"), heads.find_files(files)
    ids = numbered_names([each.name for each in media]) if annotations is None else read_image_ids(annotations)
    loaded, info = heads.load_head(head, "detection", model, classes)
    views, results = Views(numbers(scales), flip, soft), CocoResults(info.categories, ids)
    if paper_views:
        views = Views.paper()
        if isinstance(loaded.head, DetrHead):
            loaded.head.config = dataclasses.replace(loaded.head.config, queries=PAPER_QUERIES)

    def predict(image: Image.Image, shown: heads.Shown) -> Image.Image:
        detected = detect_objects(loaded, image, info.image_size, views)
        detected = detected.above(score)
        rows: list[dict[str, Any]] = results.add(shown.name, image.size, detected)
        for row, label in () if json else zip(rows, detected.labels, strict=True):
            box = ",".join(f"{number:g}" for number in row["bbox"])
            output.print_fields(shown.name, info.classes[label - 1], f"{row['score']:.2f}", box)
        return draw_detections(image, detected, info.classes)

    with torch.inference_mode():
        count, failures = heads.predict_files(media, out, predict, every)
    value = results.write(out / "detections.json", out / "results.json")
    if json:
        output.print_json(value)
    heads.print_head_demo(head, model, info)
    raise typer.Exit(output.input_status(failures, count + len(failures), strict))
