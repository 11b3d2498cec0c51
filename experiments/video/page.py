"""The result of `python -m experiments.video` as a page: text, one table, one plot, all from the JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import wrap
from typing import Any

from experiments.differences import Gap, describe_correction, find_signs, format_gap, to_gap
from experiments.video.evaluation import PHOTOGRAPHS
from experiments.video.run import (
    ALL,
    ARMS,
    BLEND,
    COMPARED,
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
from synthetic.video_dataset.caption_accuracy import KINDS, SHARES

WIDTH = 118
PAIRS = {
    f"{METADATA} − {NOTHING}": "title and description against nothing",
    f"{VIDEO} − {METADATA}": "video caption against title and description",
    f"{ALL} − {VIDEO}": "all against video caption",
    f"{ALL} − {UNREFINED}": "all against captioner not refined",
}
Signs = Mapping[tuple[str, str], int]
"""By metric and pair of arms: 1 if the first is shown to be better, −1 if worse."""
HUES = {FIRST: GREY, REFINED: "#0072B2"}
LINES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")


def page(result: Mapping[str, Any], plot: str) -> str:
    """Return the page in Markdown; `plot` is the file name of its plot."""
    signs = find_signs(_gaps(result))
    before, after = (["\n".join(wrap(text, WIDTH, break_on_hyphens=False)), ""] for text in _text(result, signs))
    lines = ["# Video finetuning in small", "", *before, _accuracies(result).markdown(), *after]
    image = f"![accuracy of captions, and scores by the number of clips]({plot})"
    lines += [_table(result, signs).markdown(), image, ""]
    return "\n".join(lines)


def _text(result: Mapping[str, Any], signs: Signs) -> tuple[str, str]:
    """Return the paragraph before each table."""
    sizes, clips = result["sizes"], result["clips"]
    captions = (
        "Written by `python -m experiments.video`: table 2 and figure 6 of the paper in small, on rendered clips of "
        f"{result['classes']} classes of objects. The engine's captioner is the built-in language model, which was "
        f"trained on images alone. A simulated annotator refined its captions of {sizes['refined']} clips, and it was "
        f"finetuned on these for {sizes['refinement_steps']} steps (phase 2). Captions are scored against the truth, "
        "those of the refined captioner on other clips: precision / recall in percent with 95 % intervals over clips, "
        "counted over all captions; an event is an object and its action. "
        f"{NEW_OBJECTS.capitalize()} are those that no model was trained on. A "
        "rule blends video caption, frame captions and the uploader's text in the role of the large language model: "
        f"SmolLM2-135M, scored on {sizes['summaries']} clips, mostly repeats its prompt. Titles and descriptions are "
        "simulated, and often say nothing of what is seen."
    )
    arms = (
        f"Then the built-in encoder was finetuned on {sizes['train']:,} clips with captions of each kind, "
        f"{sizes['steps']} steps of 32 clips at 96 px, with {len(sizes['seeds'])} seeds, and evaluated on "
        f"{clips[NEW_CLIPS]} new clips and {clips[NEW_OBJECTS]} clips of new objects. Retrieval is of videos, or of "
        f"their last frames, by true descriptions. Zero-shot classes are the {result['classes']} objects, where any "
        "that is there counts, and four actions. Photographs are those of the built-in model's own tests. Intervals "
        f"are over clips and seeds. {describe_correction(len(signs), result.get('recovered', False))} "
        f"{' '.join(_claims(result, signs))} {_decision(result, signs)}"
    )
    return captions, arms


def _accuracies(result: Mapping[str, Any]) -> Table:
    rows = []
    for name in result["clips"]:
        for kind in (FIRST, REFINED, FRAMES, BLEND, SUMMARY):
            by_metric = _accuracy_rows(result, name, kind)
            if by_metric:
                count = max(row["n"] for row in by_metric.values())
                shares = [" / ".join(_share(by_metric.get(f"{each} {share}")) for share in SHARES) for each in KINDS]
                rows.append((f"{name}: {kind}", *shares, f"{count:,}"))
    return Table(("captions", *KINDS, "clips"), tuple(rows))


def _accuracy_rows(result: Mapping[str, Any], name: str, kind: str) -> dict[str, Mapping[str, Any]]:
    """The rows on a kind of captions of a set, by metric."""
    return {row["metric"]: row for row in result["captions"] if (row["set"], row["captions"]) == (name, kind)}


def _share(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    low, high = row["interval"]
    return f"{100 * row['value']:.0f} ({100 * low:.0f}–{100 * high:.0f})"


def _claims(result: Mapping[str, Any], signs: Signs) -> Iterator[str]:
    """What the differences of each pair show."""
    for pair, words in PAIRS.items():
        verdicts = []
        for sign, verdict in ((1, "better"), (-1, "worse")):
            names = [row["name"] for row in result["table"] if signs[row["name"], pair] == sign]
            if names:
                verdicts.append(f"{verdict} in {', '.join(names)}")
        yield f"{words.capitalize()}: {'; '.join(verdicts) or 'no difference is shown'}."


def _decision(result: Mapping[str, Any], signs: Signs) -> str:
    """Whether the finetuned model is better on videos and not worse on photographs, so that it would ship."""
    pair = f"{ALL} − {NOTHING}"
    if (PHOTOGRAPHS, pair) not in signs:
        return ""
    photographs = signs[PHOTOGRAPHS, pair]
    difference = format_gap(_gaps(result)[PHOTOGRAPHS, pair], photographs)
    on_videos = [sign for (name, each), sign in signs.items() if each == pair and "video" in name]
    keep = "so the built-in model stays what it was" if photographs < 0 else "so it may replace it"
    return (
        f"Finetuned on all captions, the model is better than before in {on_videos.count(1)} of {len(on_videos)} video "
        f"tasks; on photographs it differs by {difference}, {keep}."
    )


def _gaps(result: Mapping[str, Any]) -> dict[tuple[str, str], Gap]:
    """Return the differences by metric and pair of arms; the model that was not finetuned has no seeds."""
    growth = {row["name"]: [each["by_seed"] for each in row["values"][1:-1]] for row in result["growth"]}
    gaps = {}
    for row in result["table"]:
        by_arm = {arm: row["scores"][arm]["by_seed"] for arm in ARMS}
        kinds = [*by_arm.values(), *growth[row["name"]]]
        for ours, theirs in COMPARED:
            pair = f"{ours} − {theirs}"
            difference = row["differences"][pair]
            gap = to_gap(difference, by_arm[ours], by_arm.get(theirs, ()), kinds, unit=row["unit"])
            gaps[row["name"], pair] = gap
    return gaps


def _table(result: Mapping[str, Any], signs: Signs) -> Table:
    columns = ("", NOTHING, *ARMS, *PAIRS.values())
    rows, differences = [], _gaps(result)
    for row in result["table"]:
        cells = [format_value(row["scores"][arm]["value"], row["unit"]) for arm in (NOTHING, *ARMS)]
        gaps = [format_gap(differences[row["name"], pair], signs[row["name"], pair]) for pair in PAIRS]
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
    metrics = [f"{kind} {share}" for kind in KINDS for share in SHARES]
    for offset, (kind, hue) in zip((-0.15, 0.15), HUES.items(), strict=True):
        rows = _accuracy_rows(result, NEW_CLIPS, kind)
        for at, metric in enumerate(metrics):
            if metric in rows:
                low, high = (100 * end for end in rows[metric]["interval"])
                axes.plot([low, high], [at + offset] * 2, color=hue, linewidth=1.5)
                label = kind if at == 1 else None
                axes.plot(100 * rows[metric]["value"], at + offset, "o", color=hue, markersize=4, label=label)
    axes.set_yticks(range(len(metrics)), metrics, fontsize=7)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel(f"%, {NEW_CLIPS}", fontsize=8)
    axes.set_title("captions", loc="left", fontsize=10)
    axes.legend(frameon=False, fontsize=7)


def _draw_growth(axes: Any, result: Mapping[str, Any], prefix: str, kind: str) -> None:
    rows = [
        row
        for row in result["growth"]
        if (row["name"].startswith(prefix) and kind in row["name"]) or (kind == "image" and row["name"] == PHOTOGRAPHS)
    ]
    for row, hue in zip(rows, LINES[: len(rows)], strict=True):
        values = [100 * each["value"] for each in row["values"]]
        axes.plot(row["clips"], values, marker="o", markersize=3, color=hue, label=row["name"].removeprefix(prefix))
    axes.set_title(f"{kind}s, all captions", loc="left", fontsize=10)
    axes.set_xlabel("clips", fontsize=8)
    axes.set_ylabel("%", fontsize=8)
    axes.legend(frameon=False, fontsize=6)
