"""Write the report of an analysis: a standalone HTML page, curves as PNG, scores as CSV and JSON.

The page embeds all it shows, runs no script, and escapes all text.
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from shlex import quote
from typing import Any

from perception_encoder.evaluation.comparison import format_value
from perception_encoder.files import write_text
from perception_encoder.inference.load import RANDOM
from perception_encoder.layer_analysis.curve import LayerCurve, Recommendation, recommend
from perception_encoder.layer_analysis.image_analysis import TIMES, ImageAnalysis, TokenStatistics, first_global_layer
from perception_encoder.layer_analysis.plots import plot_curves, plot_image, plot_tokens, to_svg, write_png
from perception_encoder.layer_analysis.sweep import Sweep
from perception_encoder.search.web.contact_sheet import page_head, parse_template

COLUMNS = ("model", "task", "metric", "unit", "layer", "value", "low", "high", "items", "pool")
_DIRECTORY = files("perception_encoder.layer_analysis")


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """Content of a report: layers are recommended for the first sweep's model; the other models are baselines."""

    sweeps: tuple[Sweep, ...]
    statistics: Mapping[str, Sequence[TokenStatistics]] = field(default_factory=dict)
    """Token statistics of every layer, by model."""
    example: ImageAnalysis | None = None
    """Analysis of an image in the first model."""
    notes: tuple[str, ...] = ()
    """Reasons for missing parts."""
    files: tuple[Path, ...] = ()
    """The written files."""

    @property
    def curves(self) -> tuple[LayerCurve, ...]:
        """Curves of all models."""
        return tuple(curve for sweep in self.sweeps for curve in sweep.curves)

    @property
    def leading(self) -> tuple[LayerCurve, ...]:
        """The main curve of each task, for all models."""
        first = {curve.task: curve.metric for curve in reversed(self.sweeps[0].curves)}
        return tuple(curve for curve in self.curves if first.get(curve.task) == curve.metric)

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """Recommendations for the first model, one per task."""
        return tuple(recommend(curve) for curve in self.leading if curve.model == self.sweeps[0].model)


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
            interval = score.as_metric().interval
            ends = ("", "") if interval is None else (f"{end:.6g}" for end in interval)
            label = curve.model, curve.task, curve.metric, curve.unit, layer
            rows.writerow((*label, f"{score.value:.6g}", *ends, score.n, curve.pool))
    return stream.getvalue()


def report_json(report: LayerReport) -> str:
    """Return recommendations, scores and token statistics as JSON."""
    value = {
        "models": [{"name": sweep.model, **sweep.about} for sweep in report.sweeps],
        "recommendations": [_recommendation(recommendation) for recommendation in report.recommendations],
        "curves": [
            {
                **{name: getattr(curve, name) for name in ("model", "task", "metric", "unit", "pool", "depth")},
                "lower_is_better": curve.lower_is_better,
                "layers": {
                    layer: {"value": score.value, "interval": score.as_metric().interval, "n": score.n}
                    for layer, score in curve.scores.items()
                },
            }
            for curve in report.curves
        ],
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
        tables=tables,
        cell=_cell,
        encode=lambda figure: base64.b64encode(to_svg(figure)).decode("ascii"),
    )


def _cell(curve: LayerCurve, layer: int) -> str:
    if layer not in curve.scores:
        return "–"
    metric = curve.scores[layer].as_metric()
    text = format_value(metric.value, curve.unit).split(" ")[0]
    if metric.interval is not None:
        half = (metric.interval[1] - metric.interval[0]) / 2
        text += f" ±{100 * half:.1f}" if curve.unit == "%" else f" ±{half:.3f}"
    return text
