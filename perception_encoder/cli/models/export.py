"""`pe export`: export a model to ONNX or PE-Lang's layout, or an index to other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.models.export_head import head
from perception_encoder.cli.options import BY_POSITION, argument, flag, option

app = typer.Typer(no_args_is_help=True)
app.command()(head)

Indexed = Annotated[Path, argument("DIR", "Directory with an index.")]


@app.callback()
def export() -> None:
    """Export a model or an index.

    Export a model or a head to ONNX, an aligned encoder to PE-Lang's layout, or an index to an embeddings file or
    FiftyOne.

    Examples:

        pe export onnx builtin builtin-onnx
        pe export head runs/detector/head.safetensors detector.onnx
        pe export lang runs/language_own my-lang
        pe export vectors photos vectors
    """


@app.command()
def onnx(
    model: options.OwnModel,
    out: Annotated[Path, options.out_option("New directory for the ONNX files.", "OUT"), BY_POSITION],
    size: Annotated[str | None, option("Image size in pixels [default: the model's].", "HxW")] = None,
) -> None:
    """Write a model as ONNX files.

    image.onnx takes images (B, 3, H, W) of one size, RGB from -1 to 1; text.onnx takes token ids (B, T), padded with
    zeros to the context length. Both return embeddings, not normalised; a model without pooling (Lang, Spatial) returns
    tokens (B, N, D). If onnxruntime is installed, each file is run and compared with torch; the largest difference is
    printed, and the files are deleted if it exceeds 0.001 of the largest value. Needs the extra `onnx`.

    preprocessor_config.json and tokenizer.json are for programs without this package: transformers' AutoImageProcessor
    and tokenizers' Tokenizer.from_file read them.

    Examples:

        pe export onnx builtin builtin-onnx
        pe export onnx -m PE-Core-L14-336 -o core-onnx --size 336x448
        pe export onnx PE-Spatial-B16-512.pt spatial-onnx
    """
    from perception_encoder.models.checkpoints.weights import load_model
    from perception_encoder.models.clip import CLIP
    from perception_encoder.models.export import export_onnx, parse_size
    from perception_encoder.preprocess.portable import write_preprocessing

    with output.error_console.status(f"Reading {model}"):
        network = load_model(model)
    with output.error_console.status(f"Writing ONNX files of {network.name}"):
        differences = export_onnx(network, out, parse_size(size) if size else None)
    visual, text = (network.visual, network.text) if isinstance(network, CLIP) else (network, None)
    side = visual.config.image_size
    write_preprocessing(out, parse_size(size) if size else (side, side), text.config.context_length if text else None)
    for tower, difference in differences.items():
        checked = "not compared: onnxruntime is not installed" if difference is None else f"{difference:.1e} from torch"
        output.print_line(f"{out / tower}.onnx: {network.name}, {checked}")


@app.command()
def lang(
    run: Annotated[Path, argument("RUN", "Directory or file of a language alignment.")],
    out: Annotated[Path, options.out_option("New directory for timm, or a .safetensors file.", "OUT"), BY_POSITION],
    half: Annotated[bool, flag("--half", "Write float16 weights.")] = False,
) -> None:
    """Write an aligned encoder as a PE-Lang.

    A directory holds model.safetensors, config.json and README.md: timm loads it as `local-dir:OUT`, and transformers
    by AutoModel.from_pretrained("OUT"). A file has the published PE-Lang's names, which `pe` and the reference load.

    Examples:

        pe export lang runs/language_own my-lang
        pe export lang runs/language_own -o my-lang.safetensors --half
        pe embed photos -m my-lang.safetensors -o features
    """
    from perception_encoder.language_alignment.load import find_language_model
    from perception_encoder.language_alignment.weights import read_tower
    from perception_encoder.models.checkpoints.files import SUFFIXES
    from perception_encoder.models.checkpoints.layout_directory import write_layout_directory
    from perception_encoder.models.checkpoints.weights import write_checkpoint

    tower = read_tower(Path(find_language_model(run)))
    if out.suffix in SUFFIXES:
        write_checkpoint(tower, out, half)
    else:
        write_layout_directory(tower, out, "timm", half)
    size = tower.config
    output.print_line(f"{out}: {size.depth} layers of width {size.width}, for images of {size.image_size} px")


@app.command()
def vectors(
    directory: Indexed,
    out: Annotated[options.Embeddings, BY_POSITION],
    overwrite: options.Overwrite = False,
) -> None:
    """Write the embeddings of an index.

    The formats are those of `pe embed`.

    Examples:

        pe export vectors photos vectors
        python -c "import numpy; print(numpy.load('vectors/img_emb/img_emb_0.npy').shape)"
    """
    from perception_encoder.search.index.index import Index
    from perception_encoder.search.query.export import export_vectors

    output.print_line(f"{export_vectors(Index.open(directory), out, overwrite)} embeddings in {out}")


@app.command()
def fiftyone(
    directory: Indexed,
    name: Annotated[str | None, option("Name of the dataset [default: the directory's].", "NAME")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Make FiftyOne datasets from an index.

    The dataset NAME holds the images, NAME-moments the moments of videos.

    Examples:

        pe export fiftyone photos
        fiftyone app launch photos
    """
    from perception_encoder.search.index.index import Index
    from perception_encoder.search.query.export import export_fiftyone

    for dataset, count in export_fiftyone(Index.open(directory), name or directory.resolve().name, overwrite).items():
        output.print_line(f"{dataset}: {count} samples")
