"""What `pe reproduce layers` found, as a page beside what the paper says; every word of it follows from the JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from perception_encoder.evaluation.colour_encoder import COLOURS
from perception_encoder.evaluation.outcomes import PHOTOS
from perception_encoder.evaluation.report import Table
from perception_encoder.layer_analysis.recommendation import show, show_differences
from perception_encoder.recipes.layer_findings import claim
from perception_encoder.recipes.layer_subjects import AT_ONE_SIZE, SIZE
from perception_encoder.recipes.reproduce_layers import BUILTIN, LAST, STEP
from perception_encoder.recipes.reproduction import Figures, percent

SPATIAL = ("tracking", "depth of scenes", "depth of rooms", "segmentation", "detection")
CHANGES = {
    "recipe": "Steps 1–9 in place of step 1, with equal FLOPs",
    "built-in": "The built-in model, trained for longer than both, in place of step 1",
    "depth": "24 layers in place of 12, with equal FLOPs and so three fifths of the pairs",
    "pooling": "Attention pooling in place of the class token (step 7)",
    "length": "Three times longer in place of shorter training",
}
"""Each contrast, in words."""
WIDTH = 118
_ABOUT_CHANGES = (
    "Differences with 95 % intervals over items; a plus is an improvement, of errors too, and of the gap a wider one. "
    "The three lower changes are means of four pairs of towers. A change is claimed, in bold, where the interval leaves"
    " out zero and no pair points the other way. Each run has one seed: a difference between two runs may still be "
    "chance of the training, and of twenty intervals one leaves out zero by chance. A gap's is of the best layer on "
    "all items, and does not pay for that choice."
)
DATA = {
    "classification": "labelled photographs; an attentive probe",
    "retrieval": "the measured photographs; no training",
    "segmentation": "rendered scenes, things and background; a linear head",
    "depth of scenes": "rendered scenes, each guess with the right median; a DPT head on one layer",
    "depth of rooms": "a rendered walk through a living room; a DPT head on one layer",
    "tracking": "videos; labels carried along without training",
    "detection": "rendered scenes, boxes of things of any kind; a small Faster R-CNN on one layer",
    "captions": "pictures that people described; likeness beside that of the words, no training",
}


def page(result: Mapping[str, Any], plot: str) -> str:
    """The page in Markdown; `plot` is the name of the picture beside it."""
    return "\n".join(
        [
            "# Layers in small",
            "",
            *_introduction(result),
            "",
            "## In short",
            "",
            *(f"- {line}" for line in _answers(result)),
            "",
            f"![each task's figure over the layers of all models]({plot})",
            "",
            "A filled point is the best layer, a hollow one the output; grey is the same architecture with random",
            "weights, dotted are colours alone. The band is the 95 % interval over items.",
            "",
            "## Where each task peaks",
            "",
            "The best layer, from 0, of the last one; and how far the output is behind it, in bold where the interval",
            "leaves out zero. The interval holds for all layers at once, for the best of many looks better than it is.",
            "",
            _overview(result).markdown(),
            *(line for task in _tasks(result) for line in (f"**{task}**", "", _task_table(result, task).markdown())),
            "## What each change does",
            "",
            *wrap(_ABOUT_CHANGES, WIDTH),
            "",
            _effect_table(result).markdown(),
            "## Beside the paper",
            "",
            _paper_table(result).markdown(),
            "## What was run",
            "",
            *_runs(result),
        ]
    )


def _introduction(result: Mapping[str, Any]) -> Iterator[str]:
    runs = list(result["runs"].values())
    minutes, analysis = (sum(each["seconds"] for each in some) / 60 for some in (runs, result["models"]))
    flops = " or ".join(str(value) for value in sorted({run["tflop"] for run in runs}))
    depths = " or ".join(str(value) for value in sorted({run["depth"] for run in runs}))
    spatial = ", ".join(AT_ONE_SIZE)
    text = (
        "Written by `pe reproduce layers`: figures 8, 9 and 11 in small (section 3). Asked are the built-in model, the "
        f"vanilla tower and that of the [full recipe](recipe.md), and {len(runs)} towers trained for this with steps 1 "
        f"to {STEP}: of {depths} layers, with the class token or attention pooling, for {flops} TFLOP, forward and "
        f"backward. It took {minutes:.0f} minutes of training and {analysis:.0f} of analysis, summed over processes "
        "side by side. Sets are small, so that two cores can run it; `pe layers` measures one model more closely. "
        f"Pictures are shown at the size that each model was trained at last ({_sizes(result)}), for {spatial} at "
        f"{SIZE} px, videos at 240 px. Of every tower layers evenly apart are measured, the last among them. Spatial "
        "tasks on still pictures are on rendered ones; the photographs with boxes that there are may not be trained on."
    )
    yield from wrap(text, WIDTH, break_on_hyphens=False)


def _sizes(result: Mapping[str, Any]) -> str:
    by_size: dict[int, list[str]] = {}
    for model in _trained(result):
        by_size.setdefault(model["image_size"], []).append(model["name"])
    most = max(by_size, key=lambda size: len(by_size[size]))
    others = [f"{', '.join(names)} at {size}" for size, names in by_size.items() if size != most]
    return f"{most} px" + "".join(f", {other}" for other in others)


def _answers(result: Mapping[str, Any]) -> Iterator[str]:
    for task in _tasks(result):
        rows = [row for row in result["curves"] if row["task"] == task and "above_random" in row]
        behind = [row for row in rows if _is_real(row)]
        if not behind:
            yield f"**{task}**: in none of {len(rows)} trained models can the output be told from the best layer."
            continue
        most = max(behind, key=lambda row: row["gap"]["value"])
        best, last = (show(_value(most, layer), most["unit"]) for layer in (most["best"], most["layers"][-1]))
        yield (
            f"**{task}**: the output is behind the best layer in {len(behind)} of {len(rows)} trained models"
            f"{_all_but(rows, behind)}; most of all in *{most['model']}*: "
            f"{best} at layer {most['best']} against {last} at layer {most['layers'][-1]}."
        )
    for name, words in CHANGES.items():
        said = [
            f"the best layer is {_said(result, name, 'best', ('better', 'worse'))}",
            f"the output is {_said(result, name, 'output', ('better', 'worse'))}",
            f"the gap is {_said(result, name, 'gap', ('wider', 'narrower'))}",
        ]
        yield f"{words}: {'; '.join(said)}."
    low = [f"{row['model']} ({row['task']})" for row in result["curves"] if _claimed(row.get("above_random")) == "none"]
    worse = [
        f"{row['model']} ({row['task']})" for row in result["curves"] if _claimed(row.get("above_random")) == "less"
    ]
    yield f"Best layers that cannot be told from random weights' best: {'; '.join(low) or 'none'}."
    yield f"Best layers below random weights' best: {'; '.join(worse) or 'none'}."


def _all_but(rows: Figures, behind: Figures) -> str:
    names = [row["model"] for row in behind]
    return f" ({'; '.join(names)})" if len(names) < len(rows) else ""


def _said(result: Mapping[str, Any], contrast: str, part: str, words: tuple[str, str]) -> str:
    """ "better on a, b, worse on c" of what is claimed, or that nothing is."""
    found = _by_claim(result, contrast, part)
    parts = [
        f"{word} on {_list(found[kind])}" for kind, word in zip(("more", "less"), words, strict=True) if found[kind]
    ]
    return ", ".join(parts) or "shown to differ on no task"


def _by_claim(result: Mapping[str, Any], contrast: str, part: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"more": [], "less": [], "none": []}
    for row in _effects(result, contrast):
        found[claim(row[part])].append(row["task"])
    return found


def _overview(result: Mapping[str, Any]) -> Table:
    tasks = _tasks(result)
    rows = []
    for model in result["models"]:
        curves = {row["task"]: row for row in result["curves"] if row["model"] == model["name"]}
        if model["name"] != COLOURS:
            rows.append((model["name"], *(_peak(curves[task]) for task in tasks)))
    return Table(("model", *tasks), tuple(rows))


def _peak(row: Mapping[str, Any]) -> str:
    last, gap = row["layers"][-1], show_differences(row["gap"]["value"], None, row["unit"]).removesuffix(" points")
    behind = "the output" if row["best"] == last else f"**−{gap}**" if _is_real(row) else f"−{gap}"
    return f"{row['best']} of {last}: {behind}"


def _task_table(result: Mapping[str, Any], task: str) -> Table:
    rows = [row for row in result["curves"] if row["task"] == task]
    cells = []
    for row in rows:
        unit, last = row["unit"], row["layers"][-1]
        peers = ", ".join(map(str, row["as_good"])) or "–"
        gap = "–"
        if len(row["layers"]) > 1:
            low, high = row["gap"]["ci"]
            ends = show_differences(low, high, unit).removesuffix(" points").removesuffix(f" {unit}")
            gap = f"{show_differences(row['gap']['value'], None, unit)} ({ends})"
        above = row.get("above_random")
        cells.append(
            (
                row["model"],
                f"{row['best']} of {last}" if last else "–",
                show(_value(row, row["best"]), unit),
                peers,
                show(_value(row, last), unit),
                f"**{gap}**" if _is_real(row) else gap,
                "–" if above is None else _signed(above, unit),
            )
        )
    figure = f"{rows[0]['figure']}, {rows[0]['items']:,} items"
    return Table(
        (figure, "best layer", "best", "as good", "output", "output behind best", "best above random weights"),
        tuple(cells),
    )


def _effect_table(result: Mapping[str, Any]) -> Table:
    rows = []
    for name, words in CHANGES.items():
        for row in _effects(result, name):
            cells = (_signed(row[part], row["unit"]) for part in ("best", "output", "gap"))
            moved = round(100 * sum(row["depth"]) / len(row["depth"]))
            rows.append((words, row["task"], *cells, f"{moved:+d} %".replace("-", "−") if moved else "0 %"))
            words = ""
    return Table(("change", "task", "best layer", "output", "gap", "best layer moves up the tower by"), tuple(rows))


def _paper_table(result: Mapping[str, Any]) -> Table:
    """What the paper finds, and on which tasks that is so here: agreeing, otherwise, not shown."""
    spatial = [task for task in SPATIAL if task in _tasks(result)]
    rows: list[tuple[str, str, dict[str, list[str]]]] = [
        ("8", "on spatial tasks the output is far behind (the built-in model)", _gaps(result, BUILTIN, spatial)),
        ("8", "tracking peaks before depth and detection (each trained model)", _order(result)),
        ("9", "the recipe lifts the best layer", _by_claim(result, "recipe", "best")),
        ("9", "the output does not keep up: the gap gets wider", _by_claim(result, "recipe", "gap")),
        ("9", "a decoder at the end of the full recipe's tower hides features", _gaps(result, LAST, _tasks(result))),
        ("9", "attention pooling moves the best layer up the tower", _moved(result, "pooling")),
        ("11", "longer training lifts the best layer", _by_claim(result, "length", "best")),
        ("11", "the output does not keep up: the gap gets wider", _by_claim(result, "length", "gap")),
        ("11", "more layers lift the best layer", _by_claim(result, "depth", "best")),
        ("11", "the output does not keep up: the gap gets wider", _by_claim(result, "depth", "gap")),
    ]
    cells = [
        (figure, says, *(_list(found[kind]) or "–" for kind in ("more", "less", "none")))
        for figure, says, found in rows
    ]
    return Table(("figure", "the paper finds", "here as well", "here otherwise", "not shown"), tuple(cells))


def _gaps(result: Mapping[str, Any], model: str, tasks: Sequence[str]) -> dict[str, list[str]]:
    """By whether a gap is real, there is none, or it cannot be told."""
    found: dict[str, list[str]] = {"more": [], "less": [], "none": []}
    for row in result["curves"]:
        if row["model"] == model and row["task"] in tasks:
            found["more" if _is_real(row) else "less" if row["best"] == row["layers"][-1] else "none"].append(
                row["task"]
            )
    return found


def _moved(result: Mapping[str, Any], contrast: str) -> dict[str, list[str]]:
    """By whether the best layer moves up, down, or not the same way in all pairs."""
    found: dict[str, list[str]] = {"more": [], "less": [], "none": []}
    for row in _effects(result, contrast):
        moves = row["depth"]
        found["more" if min(moves) > 0 else "less" if max(moves) < 0 else "none"].append(row["task"])
    return found


def _order(result: Mapping[str, Any]) -> dict[str, list[str]]:
    """By whether tracking's best layer is below that of every other spatial task but segmentation, model by model."""
    found: dict[str, list[str]] = {"more": [], "less": [], "none": []}
    for model in _trained(result):
        best = {row["task"]: row["best"] for row in result["curves"] if row["model"] == model["name"]}
        tracking, others = best["tracking"], [best[t] for t in best if t.startswith(("depth", "detection"))]
        kind = "more" if tracking < min(others) else "less" if tracking > max(others) else "none"
        found[kind].append(f"*{model['name']}*")
    return found


def _runs(result: Mapping[str, Any]) -> Iterator[str]:
    yield "Zero-shot accuracy is the mean over the tasks of the test photographs, of the whole model, in percent."
    yield ""
    photos = {model["name"]: model[PHOTOS] for model in _trained(result) if PHOTOS in model}
    runs = sorted(result["runs"].values(), key=lambda run: list(photos).index(run["name"]))
    cells = [
        (run["name"], f"{run['samples']:,}", f"{run['seconds'] / 60:.0f}", percent(photos[run["name"]])) for run in runs
    ]
    yield Table(("tower", "pairs", "minutes", "zero-shot, photographs"), tuple(cells)).markdown()
    measured = {row["task"]: row["items"] for row in result["curves"]}
    rows = [(task, DATA[task], f"{measured[task]:,}") for task in _tasks(result)]
    yield Table(("task", "measured on", "items"), tuple(rows)).markdown()
    failures = sorted({failure for model in result["models"] for failure in model["failures"]})
    yield f"Left out, for they cannot be used: {'; '.join(failures) or 'nothing'}."
    yield ""


def _trained(result: Mapping[str, Any]) -> Figures:
    return [model for model in result["models"] if model["beside"] is not None]


def _tasks(result: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["task"] for row in result["curves"]))


def _effects(result: Mapping[str, Any], contrast: str) -> Figures:
    return [row for row in result["effects"] if row["contrast"] == contrast]


def _is_real(row: Mapping[str, Any]) -> bool:
    """Whether the gap's interval leaves out zero."""
    return bool(row["gap"]["ci"][0] > 0)


def _claimed(above: Mapping[str, Any] | None) -> str:
    return "" if above is None else claim(above)


def _value(row: Mapping[str, Any], layer: int) -> float:
    return float(row["values"][row["layers"].index(layer)])


def _signed(found: Mapping[str, Any], unit: str) -> str:
    """A difference and its interval, in points where it is of shares; bold where it is claimed."""
    scale, digits = (100, 1) if unit == "%" else (1, 3)
    value, low, high = (f"{scale * each:+.{digits}f}".replace("-", "−") for each in (found["value"], *found["ci"]))
    text = f"{value} ({low} to {high})" + ("" if unit == "%" else f" {unit}".rstrip())
    return f"**{text}**" if claim(found) != "none" else text


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
