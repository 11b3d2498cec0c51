"""`pe segment`: the region of an image that looks like one of its points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.dense import options
from perception_encoder.cli.options import QUERY, argument, option, out_option

LIKE = "A point, X,Y in pixels or from 0 to 1; repeat for several regions."
THRESHOLD = "Least cosine with the point [default: what divides the image's patches best]."


def segment(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    like: Annotated[list[str], option(LIKE, "X,Y", QUERY)],
    out: Annotated[Path, out_option("PNG: the regions over the image; OUT.mask.png: their numbers.")],
    threshold: Annotated[float | None, option(THRESHOLD, "COSINE", QUERY)] = None,
    model: Annotated[str, shared.model_option(others="timm:NAME; hf:NAME")] = "builtin",
    layer: options.Layer = -1,
    short_side: Annotated[int, option("Pixels of the short side for the encoder.", least=16)] = 480,
    json: shared.Json = False,
) -> None:
    """Segment regions that look like points of an image.

    A region is where the features' cosine with those of the point is above a threshold, and may have several parts.
    Prints each region's number and share of the image.

    Examples:

        pe segment cup.jpg --like 0.4,0.5 -o cup.png
        pe segment street.jpg --like 120,300 --like 400,80 --threshold 0.6 -o regions.png
        pe segment cup.jpg --like 0.4,0.5 -m PE-Spatial-L14-448 -o cup.png --json
    """
    import numpy as np

    from perception_encoder.dense_prediction.overlay import draw_objects, mask_png
    from perception_encoder.dense_prediction.regions import region_like, to_mask
    from perception_encoder.dense_prediction.tracking_output import describe_objects
    from perception_encoder.files import writing
    from perception_encoder.layer_analysis.plots import write_image
    from perception_encoder.preprocess.image import open_image

    opened = open_image(image).convert("RGB")
    chosen = options.load_layer(model, layer)
    points = [options.read_position(text, "--like", 2, opened.size) for text in like]
    features = chosen.maps([opened], short_side)[0]
    labels = np.zeros((opened.height, opened.width), np.int64)
    for number, (x, y) in enumerate(points, start=1):
        labels[to_mask(region_like(features, (x, y), threshold), opened.size)] = number
    write_image(draw_objects(opened, labels), out)
    mask = out.with_suffix(".mask.png")
    with writing(mask):
        mask.write_bytes(mask_png(labels))
    regions = describe_objects(labels)
    if json:
        output.print_json(
            {"image": str(image), "model": chosen.encoder.name, "layer": chosen.layer, "regions": regions}
        )
        return
    for each in regions:
        output.print_fields(each["id"], f"{100 * each['area'] / labels.size:.1f} %")
    output.print_line(f"written: {out}, {mask}")
