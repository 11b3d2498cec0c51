"""`pe export`: a model for other runtimes, an index for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import output

app = typer.Typer()


@app.callback()
def export() -> None:
    """Write a model, or an index, for other programs."""


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
    from perception_encoder.models.checkpoints.weights import load_model
    from perception_encoder.models.export import export_onnx, parse_size

    with output.error_console.status(f"Reading {model}"):
        loaded = load_model(model)
    with output.error_console.status(f"Writing ONNX files of {loaded.name}"):
        differences = export_onnx(loaded, out, parse_size(size) if size else None)
    for tower, difference in differences.items():
        checked = "not compared: onnxruntime is not installed" if difference is None else f"{difference:.1e} from torch"
        output.print_line(f"{out / tower}.onnx: {loaded.name}, {checked}")


@app.command()
def vectors(
    folder: Annotated[Path, typer.Argument(help="Folder with an index.")],
    out: Annotated[Path, typer.Argument(help="vectors.parquet, vectors.lance, or a folder of .npy (no suffix).")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
) -> None:
    """Write the vectors of an index, as `pe embed` writes them.

    Examples:

        pe export vectors photos vectors
        python -c "import numpy; print(numpy.load('vectors/img_emb/img_emb_0.npy').shape)"
    """
    from perception_encoder.search.index.index import Index
    from perception_encoder.search.query.export import export_vectors

    output.print_line(f"{export_vectors(Index.open(folder), out, overwrite)} vectors in {out}")


@app.command()
def fiftyone(
    folder: Annotated[Path, typer.Argument(help="Folder with an index.")],
    name: Annotated[str | None, typer.Option(help="Name of the dataset [default: the folder's].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace datasets of that name.")] = False,
) -> None:
    """Make FiftyOne datasets of an index: NAME of the pictures, NAME-moments of the videos.

    Examples:

        pe export fiftyone photos
        fiftyone app launch photos
    """
    from perception_encoder.search.index.index import Index
    from perception_encoder.search.query.export import export_fiftyone

    for dataset, count in export_fiftyone(Index.open(folder), name or folder.resolve().name, overwrite).items():
        output.print_line(f"{dataset}: {count} samples")
