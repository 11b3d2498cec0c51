"""`pe convert`: convert a checkpoint to another library's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from perception_encoder.cli import options, output
from perception_encoder.cli.options import flag
from perception_encoder.errors import OutputError


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
