"""`pe export` and `pe convert`: write a model in other formats and layouts, or an index for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import BY_POSITION, argument, flag, option
from perception_encoder.errors import OutputError

app = typer.Typer(no_args_is_help=True)
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
    from perception_encoder.cli.heads import tower_of
    from perception_encoder.dense_prediction.dense_model import open_head
    from perception_encoder.dense_prediction.export import export_head
    from perception_encoder.models.export import parse_size

    loaded, info = open_head(file, tower_of, model=model)
    with output.error_console.status(f"Writing {out}"):
        difference = export_head(loaded, info, out, parse_size(size) if size else None)
    checked = "not compared: onnxruntime is not installed" if difference is None else f"{difference:.1e} from torch"
    output.print_line(f"{out}: {info.task} on {info.encoder}, {checked}")


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
    from perception_encoder.search.index import export_vectors
    from perception_encoder.search.storage.store import Store

    output.print_line(f"{export_vectors(Store.open(directory), out, overwrite)} embeddings in {out}")


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
    from perception_encoder.search.index import export_fiftyone
    from perception_encoder.search.storage.store import Store

    for dataset, count in export_fiftyone(Store.open(directory), name or directory.resolve().name, overwrite).items():
        output.print_line(f"{dataset}: {count} samples")


def convert(
    model: options.OwnModel,
    out: Annotated[
        Path,
        options.out_option("Directory (timm, open_clip), or a .safetensors, .pt, .pth or .bin file.", "OUT"),
        options.BY_POSITION,
    ],
    layout: Annotated[
        Literal["published", "timm", "open_clip"], typer.Option("--layout", "--to", help="Layout to write.")
    ] = "published",
    half: Annotated[bool, flag("--half", "Write float16 instead of float32.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Convert a checkpoint to another layout.

    MODEL is a checkpoint file in any layout, or a name. Its layout and architecture are detected, and every name and
    shape must match. The reference code reads .pt files in the published layout; timm and open_clip read .safetensors.
    timm has only vision towers, so the text tower of a Core model is left out, with a warning; open_clip has only
    two-tower models.

    For timm and open_clip, an OUT without a suffix is a directory of the weights and the library's configuration file
    with the published preprocessing. Both libraries load it as local-dir:OUT. A weights file holds no configuration.
    In timm's, README.md says how transformers gets a Core model's embeddings: AutoModel leaves its projection out.

    Examples:

        pe convert PE-Core-L14-336.pt core.safetensors
        pe convert PE-Core-L14-336 core-open-clip --to open_clip
        pe convert -m facebook/PE-Spatial-B16-512 -o spatial-timm --layout timm --half
        pe convert open_clip_model.safetensors PE-Core-B16-224.pt --layout published
    """
    from perception_encoder.models.checkpoints.files import check_suffix
    from perception_encoder.models.checkpoints.layout_directory import CONFIG_FILES, write_layout_directory
    from perception_encoder.models.checkpoints.weights import load_model, write_layout

    directory = layout in CONFIG_FILES and not out.suffix
    if not directory:
        check_suffix(out)
    if out.exists() and (not overwrite or (Path(model).exists() and out.samefile(model))):
        raise OutputError(f"{out} exists; choose another name, or --overwrite it, unless it is the input")
    with output.error_console.status(f"Reading {model}"):
        network = load_model(model)
    with output.error_console.status(f"Writing {out}"):
        left_out = (write_layout_directory if directory else write_layout)(network, out, layout, half)
    if left_out:
        output.print_warning(f"timm has no text towers: {left_out} tensors of {network.name} were left out")
    if layout in CONFIG_FILES and not directory:
        output.print_warning(
            f"{out} holds weights only, and {layout} will not preprocess images as published; "
            f"name a directory (an OUT without suffix) to write {CONFIG_FILES[layout]} too"
        )
    output.print_line(f"{out}: {network.name} in the {layout} layout, {'float16' if half else 'float32'}")
