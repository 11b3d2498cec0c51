"""Options that the commands of `pe eval` for dense tasks share."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from perception_encoder.evaluation.layer_features import OneLayer
    from perception_encoder.inference.layer_encoder import TowerEncoder

Model = Annotated[str, typer.Argument(help="Name, alias or checkpoint; timm:NAME; hf:NAME; random: before it.")]
Data = Annotated[Path, typer.Option(help="Place of the data: see below.")]
Size = Annotated[
    str | None, typer.Option(help="Pixels pictures are squashed to, as 518 or 480x640 [default: its own].")
]
Epochs = Annotated[int, typer.Option(min=1, help="Passes over the training pictures.")]
PerMetre = Annotated[float, typer.Option(min=1, help="Stored units of depth in a metre: NYU, scenes 1000, TUM 5000.")]
HeadSeeds = Annotated[
    int, typer.Option(min=1, help="Heads that are fitted, each with another seed; 1 gives no interval.")
]
FinalNorm = Annotated[
    bool, typer.Option("--final-norm", help="Put the last layer through the final norm [default: no layer].")
]
Channels = Annotated[int, typer.Option(min=4, help="Width of the head; published figures: 256.")]


def image_size(given: str | None) -> tuple[int, int] | None:
    """Height and width out of "518" or "480x640"; ConfigError where it is neither."""
    from perception_encoder.errors import ConfigError

    if given is None:
        return None
    if not (found := re.fullmatch(r"(\d+)(?:x(\d+))?", given)):
        raise ConfigError(f"--size is {given!r}; it must be pixels, as 518, or height and width, as 480x640")
    return int(found[1]), int(found[2] or found[1])


def layer_encoder(model: str, layer: int | None, final_norm: bool = False) -> tuple[TowerEncoder, OneLayer]:
    """Load an encoder and one of its layers, by default the last; ConfigError for one that does not exist."""
    from perception_encoder.evaluation.layer_features import OneLayer
    from perception_encoder.inference.layer_encoder import resolve_layers
    from perception_encoder.inference.open_model import load_layer_encoder

    encoder = load_layer_encoder(model, final_norm=final_norm)
    return encoder, OneLayer(encoder, resolve_layers(encoder, [-1 if layer is None else layer])[0])
