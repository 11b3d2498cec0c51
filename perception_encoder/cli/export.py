"""`pe export`: a model for other runtimes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output
from perception_encoder.errors import ConfigError

app = typer.Typer()


@app.callback()
def export() -> None:
    """Write a model for other runtimes."""


@app.command()
def onnx(
    model: Annotated[str, typer.Argument(help="Name of a model, or a checkpoint file.")],
    out: Annotated[Path, typer.Argument(help="New folder for image.onnx and text.onnx.")],
    size: Annotated[
        str | None, typer.Option(metavar="HxW", help="Picture size in pixels [default: the model's own].")
    ] = None,
) -> None:
    """Write ONNX files of a model's towers and compare them with torch.

    image.onnx takes pictures (B, 3, H, W), RGB from -1 to 1, of any batch and one size; text.onnx takes token ids
    (B, T), padded with zeros to the context length. Both give embeddings that are not normalised; a model without
    pooling (Lang, Spatial) gives tokens (B, N, D). With onnxruntime installed, each file is run, its largest
    difference to torch is printed, and nothing is kept if that exceeds 0.001 of the largest value. Needs the extra
    `onnx`.

    Examples:

        pe export onnx builtin builtin-onnx
        pe export onnx PE-Core-L14-336 core-onnx --size 336x448
        pe export onnx PE-Spatial-B16-512.pt spatial-onnx
    """
    from perception_encoder.models.export import export_onnx
    from perception_encoder.models.weights import load_model

    picture = parse_size(size) if size else None
    with output.error_console.status(f"Reading {model}"):
        loaded = load_model(model)
    with output.error_console.status(f"Writing ONNX files of {loaded.name}"):
        differences = export_onnx(loaded, out, picture)
    for tower, difference in differences.items():
        checked = "not compared: onnxruntime is not installed" if difference is None else f"{difference:.1e} from torch"
        output.print_line(f"{out / tower}.onnx: {loaded.name}, {checked}")


def parse_size(text: str) -> tuple[int, int]:
    """Read "HxW"; ConfigError for anything else."""
    found = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if not found:
        raise ConfigError(f"--size is {text!r}; it must be height x width in pixels, 336x448 say")
    return int(found[1]), int(found[2])
