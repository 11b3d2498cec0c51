"""`pe segment`: the region of an image that looks like one of its points."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.dense import options
from perception_encoder.cli.options import HEAD, QUERY, argument, option, out_option
from perception_encoder.errors import ConfigError
from perception_encoder.models.registry import shown_name

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from perception_encoder.dense_prediction.dense_model import HeadInfo

LIKE = "A point, X,Y in pixels or from 0 to 1; repeat for several regions."
THRESHOLD = "Least cosine with the point [default: what divides the image's patches best]."


def segment(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    out: Annotated[Path, out_option("PNG: the regions over the image; OUT.mask.png: their numbers.")],
    like: Annotated[list[str] | None, option(LIKE, "X,Y", QUERY)] = None,
    threshold: Annotated[float | None, option(THRESHOLD, "COSINE", QUERY)] = None,
    head: Annotated[str | None, option("Head's file, as `pe train segmenter` writes it.", "FILE", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("see `pe models use`", "timm:NAME; hf:NAME")] = None,
    layer: options.Layer = -1,
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
    from perception_encoder.dense_prediction.overlay import draw_objects, mask_png
    from perception_encoder.dense_prediction.tracking.tracking_output import describe_objects
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

    chosen = options.load_layer(model, layer)
    positions = [(x, y) for x, y in (options.read_position(text, "--like", 2, image.size) for text in points)]
    return label_regions(chosen.maps([image], short_side)[0], positions, image.size, threshold)


def segment_classes(image: Image.Image, head: str, model: str | None) -> tuple[np.ndarray, dict[int, str], HeadInfo]:
    """Return each pixel's class, the classes' names, and what the head is; a class called background is 0."""
    import numpy as np

    from perception_encoder.cli.dense.heads import load_head
    from perception_encoder.datasets.class_masks import BACKGROUND
    from perception_encoder.dense_prediction.segmentation import SegmentationHead

    loaded, info = load_head(head, "segmentation", model)
    assert isinstance(loaded.head, SegmentationHead)
    predicted = loaded.head.predict(loaded.map_of(image, info.image_size), (image.height, image.width))[0].cpu().numpy()
    first = 0 if info.classes[0] == BACKGROUND else 1
    return np.asarray(predicted + first), dict(enumerate(info.classes, start=first)), info
