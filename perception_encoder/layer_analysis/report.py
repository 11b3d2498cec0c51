"""Analyse models layer by layer, and write the report: a standalone HTML page, curves as PNG, scores as CSV and JSON.

The page embeds all it shows, runs no script, and escapes all text.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Any

from PIL import Image

from perception_encoder.errors import ConfigError, DataError, InputError, PerceptionEncoderError
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.results import format_value
from perception_encoder.files import write_text
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.inference.load import load_layers
from perception_encoder.inference.model_spec import ModelSpec
from perception_encoder.layer_analysis.image_analysis import (
    SAMPLE,
    TIMES,
    ImageAnalysis,
    TokenStatistics,
    analyse_image,
    describe_layers,
    first_global_layer,
)
from perception_encoder.layer_analysis.plots import (
    plot_curves,
    plot_image,
    plot_similarity,
    plot_tokens,
    to_svg,
    write_png,
)
from perception_encoder.layer_analysis.similarity import ModelSimilarity, compare_models
from perception_encoder.layer_analysis.sweep import (
    COLOURS,
    ColourTowers,
    LayerCurve,
    Recommendation,
    Sweep,
    Tasks,
    evaluated_layers,
    recommend,
    run_sweep,
)
from perception_encoder.models.registry import RANDOM
from perception_encoder.progress import Track, untracked
from perception_encoder.search_page.contact_sheet import page_head, parse_template

COLUMNS = ("model", "task", "metric", "unit", "layer", "value", "low", "high", "items", "pool")
BY_COLOUR = ("tracking",)
"""Tasks that are also evaluated by colour alone."""
_DIRECTORY = files("perception_encoder.layer_analysis")


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Content of a report: layers are recommended for the first sweep's model; the other models are baselines."""

    sweeps: tuple[Sweep, ...]
    statistics: Mapping[str, Sequence[TokenStatistics]] = field(default_factory=dict)
    example: ImageAnalysis | None = None
    similarities: tuple[ModelSimilarity, ...] = ()
    """CKA and RSA between layers, for each model and each pair of models; empty unless asked for."""
    notes: tuple[str, ...] = ()
    """Reasons for missing parts."""
    files: tuple[Path, ...] = ()

    @property
    def curves(self) -> tuple[LayerCurve, ...]:
        return tuple(curve for sweep in self.sweeps for curve in sweep.curves)

    @property
    def leading(self) -> tuple[LayerCurve, ...]:
        """The main curve of each task, for all models."""
        first = {curve.task: curve.metric for curve in reversed(self.sweeps[0].curves)}
        return tuple(curve for curve in self.curves if first.get(curve.task) == curve.metric)

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        return tuple(recommend(curve) for curve in self.leading if curve.model == self.sweeps[0].model)


def analyse(
    models: Sequence[str | ModelSpec],
    tasks: Tasks,
    cache: FeatureCache,
    layers: Sequence[int] | None,
    track: Track = untracked,
    final_norm: bool = False,
    similarity: bool = False,
    image_size: tuple[int, int] | None = None,
) -> LayerReport:
    """Sweep models in order, starting with the one to recommend layers of, and track by colour alone.

    Before the first sweep ConfigError is raised if there is none, two models share a name, or one lacks a layer or the
    images' size; later, what `run_sweep` raises. A model whose attention cannot be read is noted, and so are too few
    images for the similarity.

    Args:
        layers, final_norm: See `evaluated_layers` and `LayerFeatures`.
        similarity: Also compare the models' layers on the test images of the first task that is not tracking.
    """
    compared = next((name for name in tasks if name not in BY_COLOUR), None) if similarity else None
    if similarity and compared is None:
        raise ConfigError("similarity needs a task on images: frames of videos are too alike; add classification")
    names = [COLOURS]
    for model in models:
        encoder = load_layers(model, final_norm=final_norm)
        if encoder.name in names:
            raise ConfigError(f"two models have the name {encoder.name}; omit one, or rename its file")
        names.append(encoder.name)
        evaluated_layers(encoder, layers)
        encoder.check_size(image_size)
    sweeps: list[Sweep] = []
    statistics: dict[str, tuple[TokenStatistics, ...]] = {}
    example: ImageAnalysis | None = None
    notes: list[str] = []
    features: dict[str, Mapping[int, CachedTokens]] = {}
    for model in models:
        encoder = load_layers(model, final_norm=final_norm)
        if not sweeps:
            colours = LayerFeatures(ColourTowers(encoder))
        sweep = run_sweep(encoder, tasks, cache, layers, track)
        sweeps.append(sweep)
        images, _ = next(iter(sweep.tested.values()))
        if compared:
            features[encoder.name] = sweep.tested[compared][1]
        try:
            opened = sample(images)
            statistics[encoder.name] = describe_layers(encoder, opened, images.image_size)
            if len(sweeps) == 1:
                example = analyse_image(encoder, opened[0])
        except PerceptionEncoderError as error:
            notes.append(f"the attention of {encoder.name} cannot be analysed: {error}")
    by_colour = {name: task for name, task in tasks.items() if name in BY_COLOUR}
    if by_colour:
        sweeps.append(run_sweep(colours, by_colour, cache, None, track))
    similarities: tuple[ModelSimilarity, ...] = ()
    try:
        similarities = compare_models(features, track) if features else ()
    except DataError as error:
        notes.append(str(error))
    return LayerReport(
        sweeps=tuple(sweeps), statistics=statistics, example=example, similarities=similarities, notes=tuple(notes)
    )


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


def write_report(report: LayerReport, directory: Path) -> tuple[Path, ...]:
    """Write report.html, curves.png, layers.csv and layers.json into a directory, each atomically."""
    paths = tuple(directory / name for name in ("report.html", "curves.png", "layers.csv", "layers.json"))
    page, chart, table, data = paths
    write_png(plot_curves(report.leading), chart)
    write_text(page, "".join(report_page(report)))
    write_text(table, report_csv(report))
    write_text(data, report_json(report))
    return paths


def report_csv(report: LayerReport) -> str:
    """Return every score as a CSV row; shares in 0–1."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(COLUMNS)
    for curve in report.curves:
        for layer, score in curve.scores.items():
            interval = score.bounds()
            ends = ("", "") if interval is None else (f"{end:.6g}" for end in interval)
            label = curve.model, curve.task, curve.metric, curve.unit, layer
            rows.writerow((*label, f"{score.value:.6g}", *ends, score.n, curve.pool))
    return stream.getvalue()


def report_json(report: LayerReport) -> str:
    """Return recommendations, scores, similarities of layers and token statistics as JSON."""
    value = {
        "models": [{"name": sweep.model, **sweep.about} for sweep in report.sweeps],
        "recommendations": [_recommendation(recommendation) for recommendation in report.recommendations],
        "curves": [
            {
                **{name: getattr(curve, name) for name in ("model", "task", "metric", "unit", "pool", "depth")},
                "lower_is_better": curve.lower_is_better,
                "layers": {
                    layer: {"value": score.value, "interval": score.bounds(), "n": score.n}
                    for layer, score in curve.scores.items()
                },
            }
            for curve in report.curves
        ],
        "similarity": [similarity.to_dict() for similarity in report.similarities],
        "tokens": {model: [asdict(item) for item in layers] for model, layers in report.statistics.items()},
        "notes": list(report.notes),
        "failures": [str(failure) for failure in report.sweeps[0].failures],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _recommendation(recommendation: Recommendation) -> dict[str, Any]:
    return {
        "task": recommendation.curve.task,
        "metric": recommendation.curve.metric,
        "layer": recommendation.layer,
        "options": recommendation.command,
        "best": recommendation.best,
        "last": recommendation.last,
        "gain": recommendation.gain.value,
        "gain_interval": recommendation.gain.interval,
        "real": recommendation.is_real,
        "as_good": list(recommendation.as_good),
        "text": recommendation.text(),
    }


def report_page(report: LayerReport) -> Iterator[str]:
    """Yield the page in pieces."""
    first = report.sweeps[0]
    about = ", ".join(f"{name} {value}" for name, value in first.about.items())
    note = f"Written by pe layers: {first.model} ({about}). Layers count from 0."
    yield page_head(f"Which layer of {first.model}?", note, (_DIRECTORY / "report.css").read_text(encoding="utf-8"))
    names = [sweep.model for sweep in report.sweeps]
    tables = []
    for task, metric in dict.fromkeys((curve.task, curve.metric) for curve in report.curves):
        curves = [curve for curve in report.curves if (curve.task, curve.metric) == (task, metric)]
        layers = sorted({layer for curve in curves for layer in curve.scores})
        tables.append((f"{task}: {metric}", layers, curves))
    plots = {"curves": plot_curves(report.leading)}
    if report.statistics:
        plots["tokens"] = plot_tokens(report.statistics)
    if report.example:
        plots["example"] = plot_image(report.example)
    yield from parse_template((_DIRECTORY / "report.html").read_text(encoding="utf-8")).generate(
        report=report,
        # `pe embed` has only models of this package, with their own weights
        options="" if ":" in first.model else f"pe embed … --model {quote(first.model)} ",
        names=", ".join(f"{name} (random weights)" if name.startswith(RANDOM) else name for name in names),
        starts={model: first_global_layer(layers) for model, layers in report.statistics.items()},
        times=f"{TIMES:g}",
        failures=[str(failure) for failure in first.failures],
        plots=plots,
        matrices=[(similarity, plot_similarity(similarity)) for similarity in report.similarities],
        tables=tables,
        cell=_cell,
        encode=lambda figure: base64.b64encode(to_svg(figure)).decode("ascii"),
    )


def _cell(curve: LayerCurve, layer: int) -> str:
    if layer not in curve.scores:
        return "–"
    score = curve.scores[layer]
    interval = score.bounds()
    text = format_value(score.value, curve.unit).split(" ")[0]
    if interval is not None:
        half = (interval[1] - interval[0]) / 2
        text += f" ±{100 * half:.1f}" if curve.unit == "%" else f" ±{half:.3f}"
    return text
