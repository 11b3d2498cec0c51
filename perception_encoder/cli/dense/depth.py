"""`pe depth`: the depth of each pixel of images and videos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.cli import options as shared
from perception_encoder.cli.dense import options
from perception_encoder.cli.options import HEAD, option, out_option

HEAD_HELP = "A file of `pe train depth`, or builtin-depth, a demo [default: see `pe models use`]."


def depth(
    files: options.Paths,
    out: Annotated[Path, out_option("Directory for colour maps and depths.", "DIR")],
    head: Annotated[str | None, option(HEAD_HELP, "HEAD", HEAD)] = None,
    model: Annotated[str | None, shared.model_option("the head's own")] = None,
    every: options.Every = 0.0,
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

    from perception_encoder.cli.dense import heads
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
