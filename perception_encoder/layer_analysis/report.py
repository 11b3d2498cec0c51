"""The report of a sweep: one HTML page that opens without a server, its chart as PNG, its figures as CSV and JSON.

The page holds all it shows and runs no script; what comes from outside is escaped. It says in plain words which layer
to take for each task, shows every curve, and then why: how long tokens are, which of them all others look at, and what
a picture's features look like on the way.
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
from typing import TYPE_CHECKING

from perception_encoder.files import replacing, writing
from perception_encoder.inference.open_model import RANDOM
from perception_encoder.layer_analysis.global_tokens import TIMES, TokenStatistics, first_global_layer
from perception_encoder.layer_analysis.inside import Inside
from perception_encoder.layer_analysis.plots import curves_figure, inside_figure, to_svg, tokens_figure, write_png
from perception_encoder.layer_analysis.recommendation import Recommendation, recommend, show
from perception_encoder.layer_analysis.sweep import LayerCurve, Sweep
from perception_encoder.search.web.pages import escaped, page_head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("model", "task", "figure", "unit", "layer", "value", "low", "high", "items", "pool")


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """All that a report shows; the first sweep is the model that is asked about, the others stand beside it."""

    sweeps: tuple[Sweep, ...]
    statistics: Mapping[str, Sequence[TokenStatistics]] = field(default_factory=dict)
    """Every layer's tokens, by model."""
    insides: tuple[Inside, ...] = ()
    """Pictures that are shown from inside."""
    notes: tuple[str, ...] = ()
    """Why something of this is missing."""

    @property
    def curves(self) -> tuple[LayerCurve, ...]:
        """Of all models."""
        return tuple(curve for sweep in self.sweeps for curve in sweep.curves)

    @property
    def leading(self) -> tuple[LayerCurve, ...]:
        """The first curve of each task, of all models."""
        first = {curve.task: curve.figure for curve in reversed(self.sweeps[0].curves)}
        return tuple(curve for curve in self.curves if first.get(curve.task) == curve.figure)

    @property
    def recommendations(self) -> tuple[Recommendation, ...]:
        """For the model that is asked about, one for each task."""
        return tuple(recommend(curve) for curve in self.leading if curve.model == self.sweeps[0].model)


def write_report(report: LayerReport, folder: Path) -> tuple[Path, ...]:
    """Write report.html, curves.png, layers.csv and layers.json into a folder, each whole or not at all."""
    page, chart, table, data = (folder / name for name in ("report.html", "curves.png", "layers.csv", "layers.json"))
    write_png(curves_figure(report.leading), chart)
    for path, text in ((page, "".join(to_html(report))), (table, to_csv(report)), (data, to_json(report))):
        with writing(path), replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")
    return page, chart, table, data


def to_csv(report: LayerReport) -> str:
    """Every figure of every layer, a row each; shares in 0–1."""
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(COLUMNS)
    for curve in report.curves:
        for layer, score in curve.scores.items():
            metric = score.metric
            ends = ("", "") if metric.interval is None else (f"{end:.6g}" for end in metric.interval)
            label = curve.model, curve.task, curve.figure, curve.unit, layer
            rows.writerow((*label, f"{metric.value:.6g}", *ends, metric.n, curve.pool))
    return stream.getvalue()


def to_json(report: LayerReport) -> str:
    """Recommendations, figures and tokens' statistics as JSON."""
    value = {
        "models": [{"name": sweep.model, **sweep.about} for sweep in report.sweeps],
        "recommendations": [_said(found) for found in report.recommendations],
        "curves": [
            {
                **{name: getattr(curve, name) for name in ("model", "task", "figure", "unit", "pool", "depth")},
                "lower_is_better": curve.lower_is_better,
                "layers": {
                    layer: {"value": score.value, "ci": score.metric.interval, "n": score.n}
                    for layer, score in curve.scores.items()
                },
            }
            for curve in report.curves
        ],
        "tokens": {model: [asdict(each) for each in found] for model, found in report.statistics.items()},
        "notes": list(report.notes),
        "failures": [str(failure) for failure in report.sweeps[0].failures],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _said(found: Recommendation) -> dict[str, object]:
    return {
        "task": found.curve.task,
        "figure": found.curve.figure,
        "layer": found.layer,
        "options": found.command,
        "best": found.best,
        "last": found.last,
        "gain": found.gain.value,
        "gain_ci": found.gain.interval,
        "real": found.is_real,
        "as_good": list(found.as_good),
        "text": found.text(),
    }


def to_html(report: LayerReport) -> Iterator[str]:
    """Yield the page in pieces."""
    model = report.sweeps[0].model
    style = (files("perception_encoder.layer_analysis") / "report.css").read_text(encoding="utf-8")
    about = ", ".join(f"{name} {value}" for name, value in report.sweeps[0].about.items())
    note = f"Written by pe layers: {model} ({about}). Layers count from 0."
    yield page_head(f"Which layer of {model}?", note, style)
    yield '<section>\n<h2>In short</h2>\n<ul class="answers">\n'
    for found in report.recommendations:
        options = (
            f"<code>pe embed … --model {escaped(quote(model))} {escaped(found.command)}</code>"
            if _is_ours(model)
            else f"<code>{escaped(found.command)}</code>"
        )
        figure = escaped(f"{found.curve.task} ({found.curve.figure})")
        yield f"<li><b>{figure}</b>{escaped(found.text())} {options}</li>\n"
    yield "</ul>\n</section>\n"
    yield from _section(
        "Curves",
        "A filled point is the best layer, a hollow one the last; the band is the 95 % interval.",
    )
    yield _figure(curves_figure(report.leading), "Each task's leading figure over the layers: " + _models(report))
    yield "</section>\n"
    if report.statistics or report.insides or report.notes:
        yield from _why(report)
    yield from _tables(report)
    failures = report.sweeps[0].failures
    if failures:
        yield from _section("Left out", f"{len(failures)} inputs could not be used and are in no figure.")
        yield (
            '<ul class="plain">\n'
            + "".join(f"<li>{escaped(str(failure))}</li>\n" for failure in failures)
            + "</ul>\n</section>\n"
        )
    yield "</body>\n</html>\n"


def _is_ours(model: str) -> bool:
    """Whether `pe embed` can load the model: one of this package, with its own weights."""
    return ":" not in model


def _models(report: LayerReport) -> str:
    names = [sweep.model for sweep in report.sweeps]
    return ", ".join(f"{name} (random weights)" if name.startswith(RANDOM) else name for name in names) + "."


def _why(report: LayerReport) -> Iterator[str]:
    yield from _section("Why", _global_text(report.statistics))
    for said in report.notes:
        yield f'<p class="note">{escaped(said)}.</p>\n'
    if report.statistics:
        caption = (
            "Left: how long tokens are. Right: the share of the patches' "
            "attention that goes to global tokens, patches at which the median other patch looks "
            f"{TIMES:g} times as much as at an even share."
        )
        yield _figure(tokens_figure(report.statistics), caption)
    for inside in report.insides:
        caption = "A picture, layer by layer. Like colours are like features within a layer; no colour means anything."
        yield _figure(inside_figure(inside), f"{inside.model}: {caption}")
    yield "</section>\n"


def _global_text(statistics: Mapping[str, Sequence[TokenStatistics]]) -> str:
    said = []
    for model, found in statistics.items():
        start = first_global_layer(found)
        where = "has no global tokens that last" if start is None else f"has global tokens from layer {start} on"
        said.append(f"{model} {where}.")
    return " ".join(said)


def _tables(report: LayerReport) -> Iterator[str]:
    yield from _section("Every figure", "With half the width of its 95 % interval; the best layer is marked.")
    for task, figure in dict.fromkeys((curve.task, curve.figure) for curve in report.curves):
        curves = [curve for curve in report.curves if (curve.task, curve.figure) == (task, figure)]
        layers = sorted({layer for curve in curves for layer in curve.scores})
        yield '<div class="scroll"><table>\n<tr>'
        yield f"<th>{escaped(f'{task}: {figure}')}</th>" + "".join(f"<th>{layer}</th>" for layer in layers) + "</tr>\n"
        for curve in curves:
            cells = "".join(_cell(curve, layer) for layer in layers)
            yield f"<tr><td>{escaped(curve.model)}</td>{cells}</tr>\n"
        yield "</table></div>\n"
    yield "</section>\n"


def _cell(curve: LayerCurve, layer: int) -> str:
    if layer not in curve.scores:
        return "<td>–</td>"
    metric = curve.scores[layer].metric
    shown = show(metric.value, curve.unit).removesuffix(" %") if curve.unit == "%" else f"{metric.value:.3f}"
    if metric.interval is not None:
        half = (metric.interval[1] - metric.interval[0]) / 2
        shown += f" ±{100 * half:.1f}" if curve.unit == "%" else f" ±{half:.3f}"
    return f'<td class="best">{shown}</td>' if layer == curve.best else f"<td>{shown}</td>"


def _section(heading: str, note: str) -> Iterator[str]:
    yield f'<section>\n<h2>{escaped(heading)}</h2>\n<p class="note">{escaped(note)}</p>\n'


def _figure(figure: Figure, caption: str) -> str:
    data = base64.b64encode(to_svg(figure)).decode("ascii")
    image = f'<img src="data:image/svg+xml;base64,{data}" alt="{escaped(caption)}">'
    return f"<figure>{image}<figcaption>{escaped(caption)}</figcaption></figure>\n"
