"""`pe track`, `segment`, `depth` and `detect`: dense predictions for images and videos."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.options import HEAD, OUTPUT, QUERY, VIDEO, argument, flag, numbers, option, out_option
from perception_encoder.cli.output import track as show_progress
from perception_encoder.errors import ConfigError, InputError
from perception_encoder.models.defaults import chosen_model, default_model

if TYPE_CHECKING:
    from perception_encoder.dense_prediction.predictions import DepthEstimate, Detections, Region

BOX = "Box of an object in the first frame: LEFT,TOP,RIGHT,BOTTOM, in pixels or from 0 to 1; repeatable."
POINT = "Point on an object or in a region: X,Y, in pixels or from 0 to 1; repeatable."
SEGMENTER = "File of a segmentation head (`pe train segmenter`)."
DEPTH_HEAD = "File of a depth head (`pe train depth`), or builtin-depth, a demo [default: see `pe models use`]."
DETECTOR = """Detector: a file of `pe train`, a file of facebook/PE-Detection, or builtin-detector, a demo [default: see
`pe models use`]."""
CLASSES = "Annotations in COCO's format with the class names of a published detector."
IMAGES = "Your annotations in COCO's format: write their ids of images and classes."
SCALES = "Detect at these multiples of the training size."
SOFT_NMS = "Lower the scores of overlapping detections instead of dropping them."
PAPER_VIEWS = "Use the views of the paper's best result: four scales, mirrored, soft-NMS, 2,000 queries."
BOX_COLUMNS = ("x0", "y0", "x1", "y1")
"""Left, top, right and bottom in pixels."""
Paths = Annotated[list[Path], argument("FILES", "Images, videos and directories of them.")]
Points = Annotated[list[str] | None, option(POINT, "X,Y", QUERY, names="--point")]
Every = Annotated[float, option("Seconds between a video's frames; 0 for all.", "S", VIDEO, least=0)]
Model = Annotated[str | None, shared.model_option("see `pe models use`", "timm:NAME; hf:NAME")]
Layer = Annotated[int, option("Layer of the features, 0-based; -1 is the last.", "N", advanced=True)]
ShortSide = Annotated[int, option("Pixels of the short side for the encoder.", least=16, advanced=True)]
Prediction = TypeVar("Prediction", "DepthEstimate", "Detections")


def read_positions(texts: list[str] | None, form: str) -> list[Any]:
    """Read points or boxes of a form such as X,Y as tuples of numbers; ConfigError for anything else."""
    positions: list[tuple[float, ...]] = []
    for text in texts or []:
        try:
            positions.append(tuple(numbers(text)))
        except ConfigError:
            positions.append(())
        if len(positions[-1]) != form.count(",") + 1:
            raise ConfigError(f"the position is {text!r}; it must be {form}, in pixels or from 0 to 1")
    return positions


def print_predictions(
    predictions: Iterator[Prediction],
    columns: Sequence[str],
    lines: Callable[[Prediction], Iterable[tuple[str, ...]]],
    demo: str | None,
    skipped: list[InputError],
    strict: bool,
    json: bool,
) -> None:
    """Print the lines of each prediction as one table, or all as JSON; then list what was skipped.

    `demo`: the built-in head, if it is one.
    """
    images: list[dict[str, Any]] = []
    rows: list[tuple[str, ...]] = []
    count = 0
    for found in predictions:
        count += 1
        if json:
            images.append(found.to_dict())
        else:
            rows.extend(lines(found))
    if json:
        output.print_json({"images": images})
    elif rows:
        output.print_table(columns, rows)
    output.print_demo(demo)
    output.exit_with_skipped(skipped, count, strict)


def corners(region: Region) -> list[str]:
    """Return the columns BOX_COLUMNS of a region."""
    left, top, width, height = region.bbox
    return [str(value) for value in (left, top, left + width, top + height)]


def track(
    video: Annotated[Path, argument("VIDEO", "A video, or a directory of its frames.")],
    out: Annotated[Path | None, out_option("Directory for masks, overlay and boxes.", "DIR")] = None,
    points: Points = None,
    boxes: Annotated[list[str] | None, option(BOX, "BOX", QUERY, names="--box")] = None,
    mask: Annotated[Path | None, option("PNG with the numbers of the first frame's objects.", "FILE", QUERY)] = None,
    model: Model = None,
    layer: Layer = -1,
    short_side: ShortSide = 480,
    json: shared.Json = False,
) -> None:
    """Follow objects through a video.

    Mark the objects in the first frame with boxes, points or a mask; no training is needed. Each patch of a frame takes
    the labels of the most similar patches in the first frame and the previous seven. Prints each object's box in each
    frame, in pixels. With -o, writes OUT/NAME/00000.png … (object numbers, in DAVIS's layout), OUT/NAME.mp4 and
    OUT/NAME.json (boxes and areas) instead. Memory use does not grow with the video's length.

    Examples:

        pe track clip.mp4 --box 120,80,260,300
        pe track clip.mp4 --point 0.4,0.5 --point 0.8,0.5 -o tracked
        pe track DAVIS/JPEGImages/480p/dog --mask DAVIS/Annotations/480p/dog/00000.png -o results
        pe track clip.mp4 --mask first.png -m PE-Spatial-L14-448 -o tracked
    """
    from perception_encoder.dense_prediction import tracking

    model = model or default_model("spatial")
    encoding: dict[str, Any] = {"model": model, "layer": layer, "short_side": short_side}
    positions = read_positions(boxes, "LEFT,TOP,RIGHT,BOTTOM")
    marked: dict[str, Any] = {"points": read_positions(points, "X,Y"), "boxes": positions, "mask": mask}
    frames = tracking.track(video, out, **marked, **encoding, progress=show_progress)
    found = [(frame.to_dict(), frame.objects) for frame in frames]
    output.print_demo(model)
    if json:
        return output.print_json({"frames": [values for values, _ in found]})
    if out is None:
        rows = [(values["name"], item.id, *corners(item)) for values, objects in found for item in objects]
        return output.print_table(("frame", "object", *BOX_COLUMNS), rows)
    objects, lost = len(found[0][1]), len(found[0][1]) - len(found[-1][1])
    end = f"; {lost} not in the last one" if lost else ""
    output.print_line(f"{objects} object{'s' * (objects > 1)} in {len(found)} frames{end}: {out / video.stem}")


def segment(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    out: Annotated[Path | None, out_option("PNG file for the drawn regions; their numbers go to OUT.mask.png.")] = None,
    points: Points = None,
    head: Annotated[str | None, option(SEGMENTER, "FILE", HEAD)] = None,
    model: Model = None,
    layer: Layer = -1,
    short_side: ShortSide = 480,
    overwrite: shared.Overwrite = False,
    json: shared.Json = False,
) -> None:
    """Segment an image by points or with a head.

    --point finds the region whose features resemble those of the point; it may have several parts. --head assigns a
    class to each pixel. Prints each region's number or class, its share of the image, and its box in pixels. Needs no
    extra.

    Examples:

        pe segment cup.jpg --point 0.4,0.5
        pe segment street.jpg --point 120,300 --point 400,80 -o regions.png
        pe segment cup.jpg --point 0.4,0.5 -m PE-Spatial-L14-448 -o cup.png --json
        pe segment room.jpg --head runs/segmenter/head.safetensors -o room.png
    """
    from perception_encoder.dense_prediction import heads

    head = head or (None if points else chosen_model("segmentation"))
    loaded = None if head is None else heads.load_head(head, task="segmentation", model=model)
    if loaded is None:
        model = model or default_model("spatial")
    result = heads.segment(
        image,
        out,
        points=read_positions(points, "X,Y"),
        head=loaded,
        model=model,
        layer=layer,
        short_side=short_side,
        overwrite=overwrite,
    )
    output.print_demo(model if loaded is None else loaded.demo_model)
    if json:
        return output.print_json(result.to_dict())
    rows = [(item.name, f"{item.area / result.labels.size:.1%}", *corners(item)) for item in result.regions]
    output.print_table(("region", "share", *BOX_COLUMNS), rows)
    if out is not None:
        output.print_line(f"written: {out}, {out.with_suffix('.mask.png')}")


def depth(
    files: Paths,
    out: Annotated[Path | None, out_option("Directory for colour maps and depths.", "DIR")] = None,
    head: Annotated[str | None, option(DEPTH_HEAD, "HEAD", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("the head's own")] = None,
    every: Every = 0.0,
    json: shared.Json = False,
    strict: shared.Strict = False,
) -> None:
    """Estimate the depth of images and videos.

    Prints the nearest, median and farthest depth in metres. With -o, writes for an image OUT/NAME.png (depth as
    colours; near is bright) and OUT/NAME.depth.png (16 bits, in millimetres), and for a video OUT/NAME.mp4 and
    OUT/NAME/00000.depth.png …. Depth from builtin-depth, and from heads trained with scale_invariance 1, is relative:
    multiples of the image's median depth, in the PNG in thousandths. Unreadable inputs are skipped and listed. Needs no
    extra.

    Examples:

        pe depth photo.jpg
        pe depth photos/ clip.mp4 --every 0.5 -o depths
        pe train depth --data rgbd -o runs/depth
        pe depth photo.jpg --head runs/depth/head.safetensors -o depths
    """
    from perception_encoder.dense_prediction import heads

    loaded = heads.load_head(head or default_model("depth"), task="depth", model=model)
    skipped: list[InputError] = []
    predictions = heads.depth(files, out, head=loaded, every=every, skipped=skipped, progress=show_progress)

    def line(found: DepthEstimate) -> list[tuple[str, ...]]:
        return [(found.name, *(f"{value:.2f} {found.unit}" for value in found.percentiles))]

    print_predictions(
        predictions, ("image", "nearest", "median", "farthest"), line, loaded.demo_model, skipped, strict, json
    )


def detect(
    files: Paths,
    out: Annotated[
        Path | None, out_option("Directory for drawn images, detections.json and results.json.", "DIR")
    ] = None,
    head: Annotated[str | None, option(DETECTOR, "HEAD", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("the detector's own")] = None,
    score: Annotated[float, option("Minimum score of a detection.", "SCORE", HEAD, least=0)] = 0.5,
    scales: Annotated[str, option(SCALES, "N,N,...", HEAD, advanced=True)] = "1",
    flip: Annotated[bool, flag("--flip", "Also detect in mirrored images.", HEAD, advanced=True)] = False,
    soft_nms: Annotated[bool, flag("--soft-nms", SOFT_NMS, HEAD, advanced=True)] = False,
    paper_views: Annotated[bool, flag("--paper-views", PAPER_VIEWS, HEAD, advanced=True)] = False,
    classes: Annotated[Path | None, option(CLASSES, "FILE", HEAD, advanced=True)] = None,
    images: Annotated[Path | None, option(IMAGES, "FILE", OUTPUT)] = None,
    every: Every = 0.0,
    json: shared.Json = False,
    strict: shared.Strict = False,
) -> None:
    """Detect objects in images and videos.

    Prints the class, score and box (left, top, right, bottom in pixels) of each object. With -o, draws boxes, names and
    masks to OUT/NAME.png (for a video OUT/NAME.mp4). OUT/detections.json has images, categories and annotations in
    COCO's format; OUT/results.json is the plain list that pycocotools reads. To evaluate, add --score 0 and --images
    ANNOTATIONS: images get the ids of the entries with their file names. Without it their ids are the numbers that are
    their names or, if one is not a number, 1, 2, 3 …; a note says which. Unreadable inputs are skipped and listed.
    Needs the extra `eval`, and DETR and DETA also `lang`.

    Examples:

        pe detect photo.jpg
        pe train detector --data coco -o runs/detector
        pe detect photos/ clip.mp4 --head runs/detector/head.safetensors --every 0.5 -o detected
        pe detect photo.jpg --head deta_coco_1824pix.pth -o detected
        pe detect photos/ --head runs/detr/head.safetensors --scales 0.8,1,1.2 --flip -o detected
        pe detect val2017/ --head runs/detr/head.safetensors --score 0 --images instances_val2017.json -o detected
    """
    arguments = shared.without(locals(), "files", "out", "head", "model", "scales", "classes", "json", "strict")
    from perception_encoder.dense_prediction import heads

    loaded = heads.load_head(head or default_model("detection"), task="detection", model=model, classes=classes)
    skipped: list[InputError] = []
    arguments |= {"head": loaded, "scales": numbers(scales), "skipped": skipped}
    predictions = heads.detect(files, out, **arguments, progress=show_progress)

    def lines(found: Detections) -> Iterator[tuple[str, ...]]:
        for label, score, box in zip(found.labels, found.scores, found.boxes.tolist(), strict=True):
            corners = (f"{value:.0f}" for value in box)
            yield found.name, found.categories[label - 1][1], f"{score:.2f}", *corners

    logging.getLogger(heads.__package__).setLevel(logging.INFO)  # it says which image ids are written
    print_predictions(
        predictions, ("image", "class", "score", *BOX_COLUMNS), lines, loaded.demo_model, skipped, strict, json
    )
