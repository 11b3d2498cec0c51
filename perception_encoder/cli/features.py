"""`pe features`: what a picture is inside a model, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import default_model, output
from perception_encoder.errors import ConfigError

app = typer.Typer()


@app.command()
def features(
    image: Annotated[Path, typer.Argument(help="A picture.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="PNG file.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help=f"{default_model.OPTION[:-1]}; timm:NAME, hf:NAME.")
    ] = None,
    layer: Annotated[str, typer.Option(help="Layers with commas between; about six of all by default.")] = "",
    at: Annotated[str, typer.Option(help="The chosen place, 0-1 from the left and from the top.")] = "0.5,0.5",
    patches: Annotated[
        int | None, typer.Option(min=1, help="Patches along the longer side [default: as in training].")
    ] = None,
    rows: Annotated[
        str, typer.Option(help="Of features, alike, attention, received, norms.")
    ] = "features,alike,attention,received,norms",
    bare: Annotated[bool, typer.Option("--bare", help="The features' colours alone, of one layer.")] = False,
) -> None:
    """Draw a picture's features at some layers, what is like a place, who looks where, and how long tokens are.

    Features are drawn as the paper draws them: three principal components as lightness, chroma and hue. Beneath are
    the tokens' norms and the attention to global tokens over all layers. Said as well: the layer from which on there
    are global tokens. Needs the extra `plot`, but for --bare.

    Examples:

        pe features cup.jpg --out inside.png
        pe features cup.jpg --layer 3,7,11 --at 0.3,0.6 --patches 32 --out inside.png
        pe features cup.jpg --layer 8 --bare --out colours.png
    """
    from perception_encoder.cli.layers import read_layers
    from perception_encoder.layer_analysis.image_analysis import analyse_image
    from perception_encoder.layer_analysis.plots import plot_image, write_colours, write_png
    from perception_encoder.models.external.layer_encoders import load_layer_encoder
    from perception_encoder.preprocess.image import open_image

    wanted = read_layers(layer) if layer else None
    if bare and (wanted is None or len(wanted) != 1):
        raise ConfigError("--bare draws one layer; say which with --layer")
    encoder = load_layer_encoder(model or default_model.unchecked_default())
    analysis = analyse_image(encoder, open_image(image), wanted, patches, read_place(at))
    if bare:
        write_colours(analysis, out)
    else:
        write_png(plot_image(analysis, [row.strip() for row in rows.split(",")]), out)
    start = analysis.global_from
    output.print_line(
        f"{analysis.model}: " + ("no global tokens" if start is None else f"global tokens from layer {start} on")
    )
    output.print_line(f"written: {out}")


def read_place(text: str) -> tuple[float, float]:
    """Two numbers with a comma between; ConfigError for anything else."""
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"a place is two numbers with a comma between, 0.5,0.5 say, not {text!r}") from None
    return x, y
