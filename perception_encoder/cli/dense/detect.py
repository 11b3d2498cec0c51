"""`pe detect`: objects in images and videos."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.dense import options
from perception_encoder.cli.options import HEAD, flag, numbers, option, out_option

HEAD_HELP = "A detector's file, or builtin-detector, a demo [default: see `pe models use`]."
PAPER_VIEWS = """The views of the paper's best result, for DETA: four scales, mirrored, --soft-nms and 2,000 queries."""
ANNOTATIONS = """A dataset's annotations, in COCO's format, whose image ids results.json then has [default: the numbers
that all images are named by, as COCO's are, or else counted from 1]."""


def detect(
    files: options.Paths,
    out: Annotated[Path, out_option("Directory for drawn images, detections.json and results.json.", "DIR")],
    head: Annotated[str | None, option(HEAD_HELP, "HEAD", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("the detector's own")] = None,
    score: Annotated[float, option("Least score of a detection.", "SCORE", HEAD, least=0)] = 0.5,
    scales: Annotated[str, option("Also at these factors of the detector's size.", "N,N,...", HEAD)] = "1",
    flip: Annotated[bool, flag("--flip", "Also mirrored.", HEAD)] = False,
    soft: Annotated[bool, flag("--soft-nms", "Lower the scores of doubles, rather than drop them.", HEAD)] = False,
    paper_views: Annotated[bool, flag("--paper-views", PAPER_VIEWS, HEAD)] = False,
    classes: Annotated[Path | None, option("Names for a published detector of other classes.", "FILE", HEAD)] = None,
    annotations: Annotated[Path | None, option(ANNOTATIONS, "FILE")] = None,
    every: options.Every = 0.0,
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
    from PIL import Image

    from perception_encoder.cli.dense import heads
    from perception_encoder.dense_prediction.detection.coco_results import CocoResults, numbered_names, read_image_ids
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
