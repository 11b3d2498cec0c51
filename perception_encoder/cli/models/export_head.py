"""`pe export head`: a head with its encoder as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import options, output
from perception_encoder.cli.options import BY_POSITION, argument, option


def head(
    file: Annotated[str, argument("HEAD", "builtin-depth, builtin-detector, or a file of `pe train`.")],
    out: Annotated[Path, options.out_option("ONNX file to write.", "OUT"), BY_POSITION],
    model: Annotated[str | None, options.model_option("the head's own")] = None,
    size: Annotated[str | None, option("Image size in pixels [default: a square of the head's].", "HxW")] = None,
) -> None:
    """Write a head as an ONNX file.

    The file holds its encoder, too. It takes images (B, 3, H, W), uint8, RGB, of one size, and gives depth in metres
    (builtin-depth: up to a factor) or classes (B, H, W). A detector takes one image, and gives boxes in pixels, labels
    from 1, scores, and masks of 28x28 inside the boxes; the best come first, of any score. If onnxruntime is installed,
    the file is run and compared with torch; it is deleted if they differ by more than 0.001 of the largest value. Needs
    the extra `onnx`.

    Examples:

        pe export head builtin-depth depth.onnx
        pe export head runs/depth/head.safetensors depth.onnx
        pe export head runs/detector/head.safetensors detector.onnx --size 480x640
    """
    from perception_encoder.cli.dense.heads import tower_of
    from perception_encoder.dense_prediction.dense_model import open_head
    from perception_encoder.dense_prediction.export import export_head
    from perception_encoder.models.export import parse_size

    loaded, info = open_head(file, tower_of, model=model)
    with output.error_console.status(f"Writing {out}"):
        difference = export_head(loaded, info, out, parse_size(size) if size else None)
    checked = "not compared: onnxruntime is not installed" if difference is None else f"{difference:.1e} from torch"
    output.print_line(f"{out}: {info.task} on {info.encoder}, {checked}")
