"""A whole analysis: the sweep of a model and of those beside it, and why their layers are as they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, PerceptionEncoderError
from perception_encoder.evaluation.layer_features import LayerImages
from perception_encoder.inference.layer_encoder import TowerEncoder
from perception_encoder.layer_analysis.colour_encoder import COLOURS, ColourEncoder
from perception_encoder.layer_analysis.global_tokens import TokenStatistics
from perception_encoder.layer_analysis.inside import PICTURES, Inside, describe_layers, look_inside
from perception_encoder.layer_analysis.layer_task import LayerTask
from perception_encoder.layer_analysis.report import LayerReport
from perception_encoder.layer_analysis.store import StoreConfig, check_space, missing_bytes, show_bytes
from perception_encoder.layer_analysis.sweep import Sweep, measured_layers, run_sweep
from perception_encoder.progress import Track, untracked

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
    announce: Callable[[str], None] = lambda said: None,
) -> LayerReport:
    """Sweep models, the one that is asked about first, and where tracking is asked colours alone; one at a time.

    `layers`: see `measured_layers`, of every model; all by default. `announce` is told how much disk the features will
    take. Before the first sweep ConfigError is raised where two models have one name or one lacks a layer or takes no
    pictures of a task's size, and OutputError where the disk has no room; later, what `run_sweep` raises. A model that
    cannot be looked into is left out of "why", and noted.
    """
    _prepare(models, tasks, config, layers, load, announce)
    sweeps: list[Sweep] = []
    statistics: dict[str, tuple[TokenStatistics, ...]] = {}
    insides: tuple[Inside, ...] = ()
    notes: list[str] = []
    for model in models:
        encoder = load(model)
        if not sweeps:
            colours = ColourEncoder(encoder)
        sweeps.append(run_sweep(encoder, tasks, config, layers, track))
        pictures = tasks[0].images(encoder)[-1]
        try:
            images = sample(pictures)
            statistics[encoder.name] = describe_layers(encoder, images, pictures.image_size)
            if len(sweeps) == 1:
                patches = max(pictures.image_size or encoder.image_size) // encoder.patch_size
                insides = tuple(look_inside(encoder, image, patches=patches) for image in images[:SHOWN])
        except PerceptionEncoderError as error:
            notes.append(f"{encoder.name} could not be looked into: {error}")
    by_colour = [task for task in tasks if task.name in BY_COLOUR]
    if by_colour:
        sweeps.append(run_sweep(colours, by_colour, config, None, track))
    return LayerReport(sweeps=tuple(sweeps), statistics=statistics, insides=insides, notes=tuple(notes))


def _prepare(
    models: Sequence[str],
    tasks: Sequence[LayerTask],
    config: StoreConfig,
    layers: Sequence[int] | None,
    load: Callable[[str], TowerEncoder],
    announce: Callable[[str], None],
) -> None:
    """Find what would fail only after hours: see `analyse`. Models are loaded for it, one at a time."""
    needed: dict[str, int] = {}
    for model in models:
        encoder = load(model)
        if encoder.name in (COLOURS, *needed):
            raise ConfigError(f"two models are called {encoder.name}; leave one out, or rename its file")
        wanted = measured_layers(encoder, layers)
        shown = [pictures for task in tasks for pictures in task.images(encoder)]
        for pictures in shown:
            encoder.check_size(pictures.image_size)
        needed[encoder.name] = missing_bytes(encoder, shown, wanted, config)
    if total := sum(needed.values()):
        announce(f"features will take {show_bytes(total)} more in {config.folder}")
        check_space(config.folder, total)


def sample(pictures: LayerImages, count: int = PICTURES) -> list[Image.Image]:
    """Some pictures of a set, evenly apart, but for those that cannot be decoded; DataError where none of them can."""
    step = max(1, len(pictures.keys) // count)
    found: list[Image.Image] = []
    for place in range(0, len(pictures.keys), step)[:count]:
        with suppress(InputError):  # they were reported before
            found.extend(pictures.open(place))
    if not found:
        raise DataError(f"{pictures.name}: none of the pictures that were to be shown can be decoded")
    return found
