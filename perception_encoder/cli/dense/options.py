"""The options that the commands of dense prediction share, and positions as they are typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from perception_encoder.cli.options import VIDEO, argument, numbers, option
from perception_encoder.errors import ConfigError

if TYPE_CHECKING:
    from perception_encoder.dense_prediction.tracking.video_tracking import LayerOf

LAYER = "Layer whose features are used, 0-based; -1 is the last."
Paths = Annotated[list[Path], argument("FILES", "Images, videos and directories of them.")]
Every = Annotated[float, option("Seconds between a video's frames; 0 for all.", "S", VIDEO, least=0)]
Layer = Annotated[int, option(LAYER, "N")]


def load_layer(model: str, layer: int) -> LayerOf:
    """Load a model and choose its layer; ConfigError for a layer that it lacks."""
    from perception_encoder.dense_prediction.tracking.video_tracking import LayerOf
    from perception_encoder.inference.layer_encoder import resolve_layers
    from perception_encoder.inference.open_model import load_layer_encoder

    encoder = load_layer_encoder(model)
    (number,) = resolve_layers(encoder, [layer])
    return LayerOf(encoder, number)


def read_position(text: str, name: str, count: int, size: tuple[int, int]) -> tuple[float, ...]:
    """Read a point's or a box's `count` numbers, x before y, as shares of an image's `size` (width, height).

    Numbers up to 1 are shares already, others pixels. ConfigError for anything else, and a position outside the image.
    """
    form = "X,Y" if count == 2 else "LEFT,TOP,RIGHT,BOTTOM"
    try:
        values = numbers(text)
    except (ConfigError, ValueError):
        values = []
    if len(values) != count:
        raise ConfigError(f"{name} is {text!r}; it must be {form}, in pixels or from 0 to 1")
    sides: Sequence[int] = size * (count // 2) if max(values) > 1 else (1,) * count
    shares = tuple(value / side for value, side in zip(values, sides, strict=True))
    if not all(0 <= share <= 1 for share in shares):
        raise ConfigError(f"{name} is {text!r}, which is not inside the image of {size[0]}x{size[1]} pixels")
    return shares
