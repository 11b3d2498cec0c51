"""Analyse models layer by layer: a sweep of each, statistics that explain its curves, and tracking by colour."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, PerceptionEncoderError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import LayerEvaluator
from perception_encoder.inference.load import load_layers
from perception_encoder.layer_analysis.image_analysis import (
    SAMPLE,
    ImageAnalysis,
    TokenStatistics,
    analyse_image,
    describe_layers,
)
from perception_encoder.layer_analysis.report import LayerReport
from perception_encoder.layer_analysis.sweep import COLOURS, ColourFeatures, Sweep, evaluated_layers, run_sweep
from perception_encoder.progress import Track, untracked

BY_COLOUR = ("tracking",)
"""Tasks that are also evaluated by colour alone."""


def analyse(
    models: Sequence[str],
    tasks: Sequence[LayerEvaluator],
    cache: FeatureCache,
    layers: Sequence[int] | None,
    track: Track = untracked,
    final_norm: bool = False,
) -> LayerReport:
    """Sweep models in order, starting with the one to recommend layers of, and track by colour alone.

    `layers`: see `evaluated_layers`. `final_norm`: see `LayerFeatures`. Before the first sweep ConfigError is raised if
    two models share a name, or one lacks a layer or the size of a task's images; later, what `run_sweep` raises. A
    model whose attention cannot be read is noted.
    """
    names = [COLOURS]
    for model in models:
        encoder = load_layers(model, final_norm=final_norm)
        if encoder.name in names:
            raise ConfigError(f"two models have the name {encoder.name}; omit one, or rename its file")
        names.append(encoder.name)
        evaluated_layers(encoder, layers)
        for images in (images for task in tasks for images in task.images(encoder)):
            encoder.check_size(images.image_size)
    sweeps: list[Sweep] = []
    statistics: dict[str, tuple[TokenStatistics, ...]] = {}
    example: ImageAnalysis | None = None
    notes: list[str] = []
    for model in models:
        encoder = load_layers(model, final_norm=final_norm)
        if not sweeps:
            colours = ColourFeatures(encoder)
        sweeps.append(run_sweep(encoder, tasks, cache, layers, track))
        images = tasks[0].images(encoder)[-1]
        try:
            opened = sample(images)
            statistics[encoder.name] = describe_layers(encoder, opened, images.image_size)
            if len(sweeps) == 1:
                example = analyse_image(encoder, opened[0])
        except PerceptionEncoderError as error:
            notes.append(f"the attention of {encoder.name} cannot be analysed: {error}")
    by_colour = [task for task in tasks if task.name in BY_COLOUR]
    if by_colour:
        sweeps.append(run_sweep(colours, by_colour, cache, None, track))
    return LayerReport(sweeps=tuple(sweeps), statistics=statistics, example=example, notes=tuple(notes))


def sample(images: EncoderInputs, count: int = SAMPLE) -> list[Image.Image]:
    """Open evenly spaced images, skipping those that cannot be decoded; DataError if none can."""
    step = max(1, len(images.keys) // count)
    opened: list[Image.Image] = []
    for row in range(0, len(images.keys), step)[:count]:
        with suppress(InputError):  # reported by the sweep
            opened.extend(images.open(row))
    if not opened:
        raise DataError(f"{images.name}: none of the sampled images can be decoded")
    return opened
