"""The result of `python -m experiments.video` as a page: text, one table, one plot, all from the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.differences import format_gain, sign_of
from experiments.video.evaluation import PHOTOGRAPHS
from experiments.video.run import (
    ALL,
    ARMS,
    BLEND,
    FIRST,
    FRAMES,
    METADATA,
    NEW_CLIPS,
    NEW_OBJECTS,
    NOTHING,
    REFINED,
    SUMMARY,
    UNREFINED,
    VIDEO,
)
from perception_encoder.evaluation.report import Table, format_value
from perception_encoder.layer_analysis.plots import GREY, bare_axes, empty_figure, write_png
from perception_encoder.video_dataset.caption_accuracy import KINDS

WIDTH = 118
PAIRS = {
    f"{METADATA} − {NOTHING}": "title and description against nothing",
    f"{VIDEO} − {METADATA}": "video caption against title and description",
    f"{ALL} − {VIDEO}": "all against video caption",
    f"{ALL} − {UNREFINED}": "all against captioner not refined",
}
HUES = {FIRST: GREY, REFINED: "#0072B2"}
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    paragraphs = ["\n".join(wrap(text, WIDTH, break_on_hyphens=False)) for text in _text(result)]
    lines = ["# Video finetuning in small", "", "\n\n".join(paragraphs), "", _table(result).markdown()]
    lines += [f"![accuracy of captions, and scores by the number of clips]({plot})", ""]
    return "\n".join(lines)


def _text(result: Mapping[str, Any]) -> Iterator[str]:
    sizes, clips = result["sizes"], result["clips"]
    yield (
        "Written by `python -m experiments.video`: table 2 and figure 6 of the paper in small, on rendered clips of "
        f"{result['classes']} classes of objects. The engine's captioner is the built-in language model, which has "
        f"seen no videos. A simulated annotator refined its captions of {sizes['refined']} clips (phase 2), and it was "
        f"finetuned on these for {sizes['refinement_steps']} steps. The built-in encoder was then finetuned on "
        f"{sizes['train']:,} clips, {sizes['steps']} steps of 32 clips at 96 px, with captions of five kinds and "
        f"{len(sizes['seeds'])} seeds."
    )
    yield (
        "Titles and descriptions are simulated: often they say nothing of what is seen. A rule blends the texts, in "
        "the role of the large language model: SmolLM2-135M, which works offline, mostly repeats its prompt."
    )
    for name, count in clips.items():
        about = "of objects that were trained on" if name == NEW_CLIPS else "of objects that no model was trained on"
        yield f"Captions of {_n(result, name)} clips {about} ({count} are evaluated on): {_accuracies(result, name)}."
    yield (
        "Retrieval is among the clips, or their last frames, and true descriptions; zero-shot classes are "
        f"{result['classes']} objects, any that is there counts, and four actions. Photographs are those of the "
        "built-in model's own tests. Intervals are of 95 %, over clips and seeds; bold differences exclude zero. "
        f"{' '.join(_claims(result))}"
    )


def _n(result: Mapping[str, Any], name: str) -> int:
    return max(row["n"] for row in result["captions"] if row["set"] == name and row["captions"] == FIRST)


def _accuracies(result: Mapping[str, Any], name: str) -> str:
    """Precision and recall by kind of caption, as a sentence's part."""
    parts = []
    for kind in (FIRST, REFINED, FRAMES, BLEND, SUMMARY):
        rows = _accuracy_rows(result, name, kind)
        if not rows:
            continue
        shares = [
            f"{each} {' / '.join(_share(rows.get(f'{each} {share}')) for share in ('precision', 'recall'))}"
            for each in KINDS
        ]
        parts.append(f"{kind} {', '.join(shares)}")
    return f"precision / recall in percent, {'; '.join(parts)}"


def _accuracy_rows(result: Mapping[str, Any], name: str, kind: str) -> dict[str, Mapping[str, Any]]:
    """The rows on a kind of captions of a set, by metric."""
    return {row["metric"]: row for row in result["captions"] if (row["set"], row["captions"]) == (name, kind)}


def _share(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    low, high = row["interval"]
    return f"{100 * row['value']:.0f} ({100 * low:.0f}–{100 * high:.0f})"


def _claims(result: Mapping[str, Any]) -> Iterator[str]:
    for pair, words in PAIRS.items():
        for sign, verb in ((1, "gains"), (-1, "loses")):
            names = [row["name"] for row in result["table"] if _sign(row, pair) == sign]
            if names:
                yield f"Shown: {words} {verb} in {', '.join(names)}."


def _sign(row: Mapping[str, Any], pair: str) -> int:
    return sign_of(row["differences"][pair])


def _table(result: Mapping[str, Any]) -> Table:
    columns = ("", NOTHING, *ARMS, *PAIRS.values())
    rows = []
    for row in result["table"]:
        cells = [format_value(row["scores"][arm]["value"], row["unit"]) for arm in (NOTHING, *ARMS)]
        gaps = [format_gain({"unit": row["unit"], **row["differences"][pair]}) for pair in PAIRS]
        rows.append((row["name"], *cells, *gaps))
    return Table(columns, tuple(rows))


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Write the plot as PNG; MissingExtraError without matplotlib, ConfigError unless the path ends in .png."""
    figure = empty_figure(11, 3.2)
    axes = figure.add_subplot(1, 3, 1)
    bare_axes(axes)
    _draw_accuracy(axes, result)
    for number, (name, kind) in enumerate(((NEW_CLIPS, "video"), (NEW_CLIPS, "image")), start=2):
        axes = figure.add_subplot(1, 3, number)
        bare_axes(axes)
        _draw_growth(axes, result, f"{name}: ", kind)
    write_png(figure, path, dots=100)


def _draw_accuracy(axes: Any, result: Mapping[str, Any]) -> None:
    metrics = [f"{kind} {share}" for kind in KINDS for share in ("precision", "recall")]
    for offset, (kind, hue) in zip((-0.15, 0.15), HUES.items(), strict=True):
        rows = {
            row["metric"]: row for row in result["captions"] if (row["set"], row["captions"]) == (NEW_OBJECTS, kind)
        }
        for at, metric in enumerate(metrics):
            if metric in rows:
                low, high = (100 * end for end in rows[metric]["interval"])
                axes.plot([low, high], [at + offset] * 2, color=hue, linewidth=1.5)
                label = kind if at == 1 else None
                axes.plot(100 * rows[metric]["value"], at + offset, "o", color=hue, markersize=4, label=label)
    axes.set_yticks(range(len(metrics)), metrics, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"%, {NEW_OBJECTS}", fontsize=8)
    axes.set_title("captions", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=7)


def _draw_growth(axes: Any, result: Mapping[str, Any], prefix: str, kind: str) -> None:
    rows = [
        row
        for row in result["growth"]
        if (row["name"].startswith(prefix) and kind in row["name"])
        or (kind == "image" and row["name"].startswith(PHOTOGRAPHS))
    ]
    for row, hue in zip(rows, LINES, strict=False):
        values = [100 * each["value"] for each in row["values"]]
        axes.plot(row["clips"], values, marker="o", markersize=3, color=hue, label=row["name"].removeprefix(prefix))
    axes.set_title(f"{kind}s, all captions", loc="left", fontsize=10)
    axes.set_xlabel("clips", fontsize=8)
    axes.set_ylabel("%", fontsize=8)
    axes.legend(frameon=False, fontsize=6)
