"""A whole analysis: the sweep of a model and of those beside it, and why their layers are as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PIL import Image

from perception_encoder.data.progress import Track, untracked
from perception_encoder.errors import ConfigError, InputError
from perception_encoder.evaluation.colour_encoder import COLOURS, ColourEncoder
from perception_encoder.evaluation.layer_encoders import TowerEncoder
from perception_encoder.evaluation.layer_task import LayerPictures, LayerTask
from perception_encoder.layer_analysis.global_tokens import TokenStatistics
from perception_encoder.layer_analysis.inside import PICTURES, Inside, describe_layers, look_inside
from perception_encoder.layer_analysis.report import LayerReport
from perception_encoder.layer_analysis.store import StoreConfig
from perception_encoder.layer_analysis.sweep import Sweep, run_sweep

SHOWN = 1
"""Pictures that are shown from inside."""
BY_COLOUR = ("tracking",)
"""Tasks that colours alone are measured on."""


def analyse(
    models: Sequence[str],
    tasks: Sequence[LayerTask],
    config: StoreConfig,
    layers: Sequence[int] | None,
    load: Callable[[str], TowerEncoder],
    track: Track = untracked,
) -> LayerReport:
    """Sweep models, the one that is asked about first, and where tracking is asked colours alone; one at a time.

    `layers`: 0-based, negative from the end, of every model; all by default. Raises ConfigError where two models have
    one name, and what `run_sweep` raises.
    """
    sweeps: list[Sweep] = []
    statistics: dict[str, tuple[TokenStatistics, ...]] = {}
    insides: tuple[Inside, ...] = ()
    for model in models:
        encoder = load(model)
        if encoder.name in (COLOURS, *statistics):
            raise ConfigError(f"two models are called {encoder.name}; leave one out, or rename its file")
        sweeps.append(run_sweep(encoder, tasks, config, layers, track))
        images = sample(tasks[0].pictures(encoder)[-1])
        statistics[encoder.name] = describe_layers(encoder, images)
        if not insides:
            insides = tuple(look_inside(encoder, image) for image in images[:SHOWN])
            colours = ColourEncoder(encoder)
    by_colour = [task for task in tasks if task.name in BY_COLOUR]
    if by_colour:
        sweeps.append(run_sweep(colours, by_colour, config, None, track))
    return LayerReport(sweeps=tuple(sweeps), statistics=statistics, insides=insides)


def sample(pictures: LayerPictures, count: int = PICTURES) -> list[Image.Image]:
    """Some pictures of a set, evenly apart; those that cannot be decoded were reported before."""
    step = max(1, len(pictures.keys) // count)
    found = []
    for place in range(0, len(pictures.keys), step)[:count]:
        try:
            found.append(pictures.open(place))
        except InputError:
            continue
    return found
