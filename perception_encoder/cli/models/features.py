"""`pe features`: draw a model's features of an image, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from perception_encoder.cli import default_model, options, output
from perception_encoder.cli.options import argument, flag, option
from perception_encoder.errors import ConfigError


def features(
    image: Annotated[Path, argument("IMAGE", "An image file.")],
    out: Annotated[Path, options.out_option("PNG file to write.")],
    model: Annotated[str | None, options.model_option("see `pe models`", "timm:NAME; hf:NAME")] = None,
    layer: Annotated[str, option("Layers, such as 0,5,-1 [default: about six].", "N,N,...")] = "",
    at: Annotated[str, option("The point to compare with, from 0,0 (top left) to 1,1.", "X,Y")] = "0.5,0.5",
    patches: Annotated[int | None, option("Patches along the longer side [default: as in training].", least=1)] = None,
    bare: Annotated[bool, flag("--bare", "Draw only the feature map of one layer.")] = False,
    baseline: Annotated[list[str] | None, option("Model to draw beside it; repeat for more.", "MODEL")] = None,
) -> None:
    """Draw features of an image, layer by layer.

    Rows: features (three principal components as lightness, chroma and hue, as in the paper), alike (similarity to a
    point), attention (of that point), received (attention that each patch receives), norms (of the tokens). Below them:
    norms, and attention to global tokens, over all layers. Prints the first layer with global tokens. Needs the extra
    `plot`, except for --bare and --baseline.

    With --baseline, draws the image and beside it the feature map of one layer, by default the last, of each model, at
    512 px or above, as the paper draws Core and Spatial.

    Examples:

        pe features cup.jpg -o features.png
        pe features cup.jpg --layer 3,7,11 --at 0.3,0.6 --patches 32 -o features.png
        pe features cup.jpg --layer 8 --bare -o colours.png
        pe features cup.jpg -m PE-Spatial-L14-448 --baseline PE-Core-L14-336 -o both.png
    """
    from perception_encoder.inference.open_model import load_layer_encoder
    from perception_encoder.layer_analysis.image_analysis import analyse_image
    from perception_encoder.layer_analysis.plots import plot_image, write_colours, write_png
    from perception_encoder.preprocess.image import open_image

    layers = options.read_layers(layer) if layer else None
    if bare and (layers is None or len(layers) != 1):
        raise ConfigError("--bare draws one layer; choose it with --layer")
    model = model or default_model.unchecked_default()
    if baseline:
        draw_side_by_side(image, out, [model, *baseline], layers, patches)
        return default_model.print_demo(model, *baseline)
    encoder = load_layer_encoder(model)
    analysis = analyse_image(encoder, open_image(image), layers, patches, read_point(at))
    if bare:
        write_colours(analysis, out)
    else:
        write_png(plot_image(analysis), out)
    start = analysis.global_from
    output.print_line(
        f"{analysis.model}: " + ("no global tokens" if start is None else f"global tokens from layer {start}")
    )
    output.print_line(f"written: {out}")
    default_model.print_demo(model)


def draw_side_by_side(image: Path, out: Path, models: list[str], layers: list[int] | None, patches: int | None) -> None:
    """Write one layer's feature map of each model; ConfigError for several layers."""
    from perception_encoder.inference.layer_encoder import resolve_layers
    from perception_encoder.inference.open_model import load_layer_encoder
    from perception_encoder.layer_analysis.plots import write_image
    from perception_encoder.layer_analysis.side_by_side import Column, features_side_by_side
    from perception_encoder.preprocess.image import open_image

    layers = layers or [-1]
    if len(layers) != 1:
        raise ConfigError("--baseline draws one layer of each model; choose it with --layer")
    opened = open_image(image)
    encoders = [load_layer_encoder(name) for name in models]
    columns = [Column(encoder, *resolve_layers(encoder, layers)) for encoder in encoders]
    write_image(features_side_by_side(columns, [opened], patches), out)
    names = ", ".join(f"{column.encoder.name} layer {column.layer}" for column in columns)
    output.print_line(f"from left to right: the image, {names}")
    output.print_line(f"written: {out}")


def read_point(text: str) -> tuple[float, float]:
    """Read two comma-separated numbers; ConfigError for anything else."""
    try:
        x, y = options.numbers(text)
    except (ConfigError, ValueError):
        raise ConfigError(f"--at is {text!r}; it must be two numbers separated by a comma, such as 0.5,0.5") from None
    return x, y
