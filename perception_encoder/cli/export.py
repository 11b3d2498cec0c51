"""`pe export` and `pe convert`: write a model in other formats and layouts, or an index for other programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import BY_POSITION, argument, flag, option

app = typer.Typer(no_args_is_help=True)
Indexed = Annotated[Path, argument("DIR", "Directory with an index.")]


@app.callback()
def export() -> None:
    """Export a model or an index.

    Export a model or a head as ONNX, a model for OpenVINO, an aligned encoder as PE-Lang, a language model for
    transformers, or an index as an embeddings file.

    Examples:

        pe export onnx builtin builtin-onnx
        pe export onnx runs/detector/head.safetensors detector.onnx
        pe export openvino PE-Core-L14-336 core-openvino --precision bfloat16
        pe export immich PE-Core-S16-384 cache/clip/ViT-B-32__openai
        pe export lang runs/language_custom my-lang
        pe export perception-lm runs/language_custom my-plm
        pe export vectors photos vectors
    """


@app.command()
def onnx(
    model: Annotated[
        str, options.model_option(others="builtin-depth, builtin-detector, or a head's file"), BY_POSITION
    ],
    out: Annotated[
        Path, options.out_option("New directory for a model's files, or a head's ONNX file.", "OUT"), BY_POSITION
    ],
    size: Annotated[str | None, option("Image size, such as 336 or 480x640 [default: the model's].", "SIZE")] = None,
    int8: Annotated[bool, flag("--int8", "Multiply in int8: faster and a quarter of the size; not for heads.")] = False,
    encoder: Annotated[str | None, option("Encoder of a head [default: its own].", "MODEL", advanced=True)] = None,
) -> None:
    """Write a model or a head as ONNX.

    A model becomes a directory: image.onnx takes images (B, 3, H, W) of one size, RGB from -1 to 1; text.onnx takes
    token ids (B, T), padded with zeros. Both return embeddings, not normalized, or tokens (B, N, D) if the model has no
    pooling. transformers and tokenizers read preprocessor_config.json and tokenizer.json.

    A head becomes one file with its encoder. It takes images (B, 3, H, W), uint8, RGB, and returns depth in metres or
    classes (B, H, W); a detector takes one image and returns boxes, labels from 1, scores and 28x28 masks.

    If onnxruntime is installed, files that differ from torch by more than 0.001 of the largest value are deleted; in
    int8, those with a cosine similarity below 0.999 on a fixed set. Weights in int8 have 7 bits, so that sums fit 16
    bits on x86 CPUs without VNNI. Needs the extra `onnx`.

    Examples:

        pe export onnx builtin builtin-onnx
        pe export onnx PE-Core-B16-224 core-int8 --int8
        pe export onnx -m PE-Core-L14-336 -o core-onnx --size 336x448
        pe export onnx builtin-depth depth.onnx
        pe export onnx runs/detector/head.safetensors detector.onnx --size 480x640
    """
    from perception_encoder.exports.onnx import export_onnx

    show_files(out, partial(export_onnx, model, out, size=options.image_size(size), encoder=encoder, int8=int8))


@app.command()
def openvino(
    model: options.OwnModel,
    out: Annotated[Path, options.out_option("New directory.", "OUT"), BY_POSITION],
    precision: Annotated[
        Literal["float32", "bfloat16", "int8"], option("Type of the weights and activations.")
    ] = "float32",
    size: Annotated[str | None, option("Image size, such as 336 or 480x640 [default: the model's].", "SIZE")] = None,
) -> None:
    """Write a model for OpenVINO.

    image.xml takes pixels (B, 3, H, W) of one size, uint8, RGB; text.xml takes token ids (B, T). Both return
    embeddings, not normalized, or tokens (B, N, D) if the model has no pooling. The directory also has tokenizer.json,
    preprocessor_config.json, SHA256SUMS, and in README.md a program that needs only openvino, numpy, Pillow and
    tokenizers.

    Each tower is compared with torch on a fixed set: values of unit embeddings differ by at most 5e-6 in float32 and
    0.005 in bfloat16; in int8 their cosine similarity is at least 0.999, or nothing is written. On x86 CPUs without
    VNNI, int8 sums may saturate. Needs the extra `fast`.

    Examples:

        pe export openvino builtin builtin-openvino
        pe export openvino -m PE-Core-L14-336 -o core-openvino --precision bfloat16
        pe export openvino PE-Spatial-B16-512 spatial-openvino --size 480x640
    """
    from perception_encoder.exports.openvino import export_openvino

    show_files(out, partial(export_openvino, model, out, precision=precision, size=options.image_size(size)))


@app.command()
def immich(
    model: options.OwnModel,
    out: Annotated[Path, options.out_option("New directory, CACHE/clip/NAME.", "OUT"), BY_POSITION],
) -> None:
    """Write a model for immich's machine-learning service.

    CACHE is the service's cache. NAME is a model of immich's list whose vectors have the same length:
    ViT-B-32__openai for 512 numbers (S16, T16), ViT-L-16-SigLIP2-384__webli for 1,024 (B16, L14). Choose it in immich,
    and have the embeddings of all photographs computed again: immich cannot tell that the model changed. Needs the
    extra `onnx`.

    Examples:

        pe export immich PE-Core-S16-384 cache/clip/ViT-B-32__openai
        pe export immich -m PE-Core-L14-336 -o cache/clip/ViT-L-16-SigLIP2-384__webli
    """
    from perception_encoder.exports.immich import export_immich

    show_files(out, partial(export_immich, model, out))


def show_files(out: Path, export: Callable[[], Iterable[object]]) -> None:
    """Write a model's files, and print how each compares with torch."""
    with output.error_console.status(f"Writing {out}"):
        files = export()
    for file in files:
        output.print_line(str(file))


@app.command()
def lang(
    run: Annotated[Path, argument("RUN", "Directory or file of a language alignment.")],
    out: Annotated[Path, options.out_option("New directory for timm, or a .safetensors file.", "OUT"), BY_POSITION],
    half: Annotated[bool, flag("--half", "Write float16 weights.")] = False,
) -> None:
    """Write an aligned encoder as PE-Lang.

    A directory has model.safetensors and config.json: timm loads it as `local-dir:OUT`, and transformers
    with AutoModel.from_pretrained("OUT"). A file has the published PE-Lang's names, which `pe` and the reference load.

    Examples:

        pe export lang runs/language_custom my-lang
        pe export lang runs/language_custom -o my-lang.safetensors --half
        pe embed photos -m my-lang.safetensors -o features
    """
    from perception_encoder.language_models.weights import export_lang

    size = export_lang(run, out, half=half).config
    output.print_line(f"{out}: {size.depth} layers of width {size.width}, for images of {size.image_size} px")


@app.command()
def perception_lm(
    run: Annotated[Path, argument("RUN", "Directory or file of a language alignment, or builtin-lang.")],
    out: Annotated[Path, options.out_option("New directory.", "OUT"), BY_POSITION],
    half: Annotated[bool, flag("--half", "Write float16 weights.")] = False,
) -> None:
    """Write a language model for transformers.

    The directory has the encoder, projector and language model as PerceptionLMForConditionalGeneration, with processor
    and chat template: AutoModelForImageTextToText, AutoProcessor and pipeline("image-text-to-text") read it, and so
    does `pe ask -m OUT`. Logits and a prompt are compared with this package's before anything is written. A linear
    projector, and a language model that rescales its logits or adds a bias to them, do not fit. README.md has a
    program. Needs the extra `lang`.

    Examples:

        pe export perception-lm runs/language_custom my-plm
        pe export perception-lm runs/language_custom -o my-plm --half
        pe ask image.jpg "What is in the image?" -m my-plm
    """
    from perception_encoder.language_models.perception_lm import export_perception_lm

    with output.error_console.status(f"Writing {out}"):
        written = export_perception_lm(run, out, half=half)
    output.print_line(
        f"{out}: {written.model}, {written.parameters / 1e6:,.1f} million parameters, logits {written.difference:.1e} "
        "from this package's"
    )


@app.command()
def vectors(
    directory: Indexed,
    out: Annotated[options.Embeddings, BY_POSITION],
    to: Annotated[
        Literal["qdrant", "lancedb", "pgvector"] | None,
        option("Write a directory for this vector store [default: the formats of `pe embed`]."),
    ] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write the embeddings of an index.

    For a vector store, OUT has vectors.parquet (for pgvector vectors.csv) with ids, paths, kinds, times, dates and the
    model, and load.py or load.sql, the program that loads it.

    Examples:

        pe export vectors photos vectors
        pe export vectors photos for-qdrant --to qdrant && python for-qdrant/load.py http://localhost:6333
        python -c "import numpy; print(numpy.load('vectors/img_emb/img_emb_0.npy').shape)"
    """
    from perception_encoder.search.index import open_index

    rows = open_index(directory).export_vectors(out, to=to, overwrite=overwrite)
    output.print_line(f"{rows} embeddings in {out}")


def convert(
    source: options.OwnModel,
    out: Annotated[
        Path,
        options.out_option("Directory (except for published), or a .safetensors, .pt, .pth or .bin file.", "OUT"),
        BY_POSITION,
    ],
    to: Annotated[
        Literal["published", "timm", "open_clip", "sentence-transformers"], option("Layout to write.")
    ] = "published",
    half: Annotated[bool, flag("--half", "Write float16 instead of float32.")] = False,
    overwrite: options.Overwrite = False,
) -> None:
    """Convert a checkpoint to another layout.

    MODEL is a checkpoint file in any layout, or a name; every name and shape must match. The reference code reads .pt
    files in the published layout; timm and open_clip read .safetensors. timm has only vision towers, so a Core model's
    text tower is omitted, with a warning; open_clip has only two-tower models.

    For timm and open_clip, an OUT without a suffix is a directory with the library's configuration; both load it as
    local-dir:OUT. transformers loads timm's directory, too: AutoModelForImageClassification returns a Core model's
    embeddings as logits; AutoModel omits the projection.

    For sentence-transformers, OUT is a directory that SentenceTransformer("OUT") loads for images and texts; it needs
    neither this package nor code from the directory. Every directory has a README.md with the licence, published
    scores, and a program to run, and SHA256SUMS.

    Examples:

        pe convert PE-Core-L14-336.pt core.safetensors
        pe convert PE-Core-L14-336 core-open-clip --to open_clip
        pe convert PE-Core-L14-336 core-st --to sentence-transformers
        pe convert -m facebook/PE-Spatial-B16-512 -o spatial-timm --to timm --half
        pe convert open_clip_model.safetensors PE-Core-B16-224.pt
    """
    from perception_encoder.exports.layouts import CONFIG_FILES
    from perception_encoder.exports.layouts import convert as convert_checkpoint

    with output.error_console.status(f"Writing {out}"):
        converted = convert_checkpoint(source, out, to, half=half, overwrite=overwrite)
    if converted.omitted:
        output.print_warning(f"timm has no text towers: {converted.omitted} tensors of {converted.model} were omitted")
    if to in CONFIG_FILES and not converted.configured:
        output.print_warning(
            f"{out} holds weights only, and {to} will not preprocess images as published; "
            f"name a directory (an OUT without suffix) to write {CONFIG_FILES[to]} too"
        )
    output.print_line(f"{out}: {converted.model} in the {to} layout, {converted.dtype}")
