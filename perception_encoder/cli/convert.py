"""`pe convert`: a checkpoint in another library's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli import output
from perception_encoder.errors import OutputError

app = typer.Typer()


@app.command()
def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="Checkpoint file of any layout, or a model's name.")],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT",
            help="Directory to write for timm or open_clip, or a weights file: .safetensors, .pt, .pth or .bin.",
        ),
    ],
    layout: Annotated[
        Literal["published", "timm", "open_clip"], typer.Option(help="Whose names the file shall have.")
    ] = "published",
    half: Annotated[bool, typer.Option("--half", help="Write float16 instead of float32.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")] = False,
) -> None:
    """Write a checkpoint under the names of the published files, of timm or of open_clip.

    The layout of IN and its model are recognised; every name and shape must fit. A .pt of the published layout is
    what the reference code reads, a .safetensors what timm and open_clip read. timm has vision towers alone, so the
    text tower of a Core model is left out there, and said so; open_clip has two-tower models alone.

    An OUT without a suffix is a directory: weights and the library's configuration file, which carries the published
    preprocessing. Both libraries load it as local-dir:OUT. A weights file holds no configuration.

    Examples:

        pe convert PE-Core-L14-336.pt core.safetensors
        pe convert PE-Core-L14-336 core-open-clip --layout open_clip
        pe convert facebook/PE-Spatial-B16-512 spatial-timm --layout timm --half
        pe convert open_clip_model.safetensors PE-Core-B16-224.pt --layout published
    """
    from perception_encoder.models.checkpoints.files import check_suffix
    from perception_encoder.models.checkpoints.layout_directory import CONFIG_FILES, write_layout_directory
    from perception_encoder.models.checkpoints.weights import load_model, write_layout

    folder = layout in CONFIG_FILES and not out.suffix
    if not folder:
        check_suffix(out)
    if out.exists() and (not overwrite or (Path(source).exists() and out.samefile(source))):
        raise OutputError(f"{out} exists; choose another name, or replace it (--overwrite), unless it is IN itself")
    with output.error_console.status(f"Reading {source}"):
        model = load_model(source)
    with output.error_console.status(f"Writing {out}"):
        left_out = (write_layout_directory if folder else write_layout)(model, out, layout, half)
    if left_out:
        output.print_warning(f"timm has no text towers: {left_out} tensors of {model.name}'s were left out")
    if layout in CONFIG_FILES and not folder:
        output.print_warning(
            f"{out} holds weights only, and {layout} will not preprocess images as published; "
            f"name a directory (an OUT without suffix) to write {CONFIG_FILES[layout]} too"
        )
    output.print_line(f"{out}: {model.name} in the {layout} layout, {'float16' if half else 'float32'}")
