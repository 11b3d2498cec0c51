"""The plots of docs/results: one a page, drawn from the JSON files alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from benchmarks.results import Read, best_setting
from benchmarks.speed_tables import LIMIT, OURS, median_rates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, QUIET, LINE = "#23201d", "#6f6a63", "#e2ddd4"
RED, BLUE, GREEN, GREY = "#b3472f", "#2b6c8f", "#5d8a3a", "#a39d93"
LAYER_PANELS = {
    "segmentation": "segmentation, mIoU in %",
    "detection": "detection, box AP in %",
    "depth": "depth, relative error (lower is better)",
    "tracking of real videos": "tracking, J&F in %",
}
ENCODERS = {
    "Core": ("before alignment", GREY),
    "aligned to masks": ("aligned to masks", RED),
    "aligned to both": ("aligned to masks and its own layer", BLUE),
}


def _figure(width: float, height: float) -> Figure:
    import matplotlib
    from matplotlib.figure import Figure

    matplotlib.rcParams["svg.hashsalt"] = "perception-encoder"  # the same numbers make the same file
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_facecolor("white")
    return figure


def _axes(figure: Figure, rows: int, columns: int, at: int, title: str, **labels: Any) -> Any:
    axes = figure.add_subplot(rows, columns, at)
    axes.set_title(title, loc="left", fontsize=10, color=INK)
    axes.set(**labels)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.tick_params(colors=QUIET, labelsize=8)
    axes.xaxis.label.set_fontsize(8)
    axes.yaxis.label.set_fontsize(8)
    axes.grid(color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)
    return axes


def _barred(axes: Any, names: list[str], values: list[float], colours: list[str], text: str = "{:.0f}") -> None:
    """Draw horizontal bars, the first on top, with their values."""
    places = range(len(names))
    axes.barh(places, values, color=colours, height=0.7)
    for place, value in zip(places, values, strict=True):
        axes.text(value, place, " " + text.format(value), va="center", fontsize=8, color=INK)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)


def draw_parity(read: Read) -> Figure:
    """Relative errors of each model against each implementation."""
    figure = _figure(7.5, 3.6)
    axes = _axes(figure, 1, 1, 1, "relative error in float32", xscale="log")
    rows = read("parity")["rows"]
    models = list(dict.fromkeys(row["model"] for row in rows))
    for oracle, colour, mark in (("reference", RED, "o"), ("timm", BLUE, "s"), ("open_clip", GREEN, "^")):
        measured = [row for row in rows if row["oracle"] == oracle]
        places = [models.index(row["model"]) for row in measured]
        axes.plot([row["values"] for row in measured], places, mark, color=colour, label=oracle, markersize=5)
    axes.axvline(1.2e-7, color=QUIET, linewidth=0.8, linestyle="--", label="float32's epsilon")
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set_xlim(1e-7, 2e-6)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_speed(read: Read) -> Figure:
    """Images a second of ours in each setting, and of each other contender in its fastest precision, by model."""
    chosen = {name: result for name, result in read("encode")["towers"].items() if name.endswith(":image")}
    figure = _figure(9, 2.9)
    for at, (name, result) in enumerate(chosen.items(), start=1):
        model = name.removesuffix(":image").removeprefix("PE-Core-")
        axes = _axes(figure, 1, len(chosen), at, model, xlabel="images/s")
        bars: dict[str, tuple[float, str]] = {}
        for label, rate in median_rates(result).items():
            who = label.partition(",")[0]
            bar = label.removeprefix(f"{OURS}, ") if who == OURS else who.removeprefix(f"{LIMIT}: ")
            name = bar if who == OURS else f"{bar} ({label.rpartition(', ')[2]})"
            bars[bar] = max((rate, name), bars.get(bar, (0.0, "")))
        rates, names = zip(*sorted(bars.values(), reverse=True), strict=True)
        colours = [RED if "," in name else GREY for name in names]
        _barred(axes, names, rates, colours, "{:.3g}")
        axes.tick_params(labelsize=6)
    return figure


def draw_layers(read: Read) -> Figure:
    """Scores of three layers before and after both alignments, four tasks."""
    figure = _figure(9, 2.6)
    curves = {(row["task"], row["model"]): row for row in read("spatial")["curves"]}
    for at, (task, title) in enumerate(LAYER_PANELS.items(), start=1):
        axes = _axes(figure, 1, len(LAYER_PANELS), at, title.partition(",")[0], xlabel="layer, from 0 to 11")
        axes.set_ylabel(title.partition(", ")[2], fontsize=7)
        for encoder, (label, colour) in ENCODERS.items():
            row = curves[task, encoder]
            scale = 100 if row["unit"] == "%" else 1
            layers = row["layers"]
            low, high = ([scale * ends[side] for ends in row["interval"]] for side in (0, 1))
            axes.fill_between(layers, low, high, color=colour, alpha=0.13, linewidth=0)
            values = [scale * value for value in row["values"]]
            axes.plot(layers, values, "o-", color=colour, label=label, markersize=4)
        axes.set_xticks(layers)
        if curves[task, "Core"]["lower_is_better"]:
            axes.invert_yaxis()
        if at == 1:
            figure.legend(
                *axes.get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside lower right", ncols=3
            )
    return figure


def draw_builtin(read: Read) -> Figure:
    """Zero-shot accuracy of the built-in model by task, above chance, and answers with and without the image."""
    figure = _figure(8.5, 2.8)
    scores = [row for row in read("builtin")["scores"] if row["method"] == "zero-shot"]
    measured = [row for row in scores if row["name"] == "mean class accuracy"]
    best: dict[str, tuple[float, float]] = {}
    for row in measured:
        value = 100 * row["value"]
        if value > best.get(row["task"], (0.0, 0.0))[0]:
            best[row["task"]] = value, 100 / row["classes"]
    axes = _axes(figure, 1, 2, 1, "builtin: zero-shot accuracy in %")
    _barred(axes, list(best), [value for value, _ in best.values()], [RED] * len(best))
    axes.barh(range(len(best)), [chance for _, chance in best.values()], color=GREY, height=0.7)
    axes = _axes(figure, 1, 2, 2, "builtin-lang: right answers in %")
    rows = [row for row in read("builtin_language")["splits"]["simple"] if row["metric"] == "accuracy"]
    scores = [[100 * row["scores"][name]["value"] for row in rows] for name in ("built-in", "without the image")]
    _barred(axes, [row["name"] for row in rows], scores[0], [RED] * len(rows))
    axes.barh(range(len(rows)), scores[1], color=GREY, height=0.35)
    return figure


def draw_memory(read: Read) -> Figure:
    """Peak memory of a training step by batch size, and resident memory of the servers over time."""
    figure = _figure(8.5, 3)
    axes = _axes(figure, 1, 2, 1, "a training step: peak memory in GB", xlabel="pairs in a batch", xscale="log")
    peaks = read("memory")["peaks"]
    for (mode, by_size), colour in zip(peaks.items(), (GREY, BLUE, GREEN, RED), strict=True):
        sizes = [size for size in by_size if size != "0"]
        gigabytes = [by_size[size] / 1e9 for size in sizes]
        axes.plot(list(map(int, sizes)), gigabytes, "o-", color=colour, label=mode, markersize=4)
    axes.set_xticks([int(size) for size in sizes], sizes)
    axes.set_xticks([], minor=True)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes = _axes(figure, 1, 2, 2, "`pe serve` under load: resident memory in MiB", xlabel="seconds")
    run = read("server_memory")["runs"]["after"]
    for name, colour in (("page", BLUE), ("api", GREEN), ("chat", RED)):
        label = {"page": "the page", "api": "the embedding API", "chat": "both, with chat"}[name]
        axes.plot(*zip(*run[name]["memory"], strict=True), color=colour, label=label)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    return figure


def draw_search(read: Read) -> Figure:
    """Draw recall and time of ways to search a million vectors."""
    figure = _figure(5, 3)
    axes = _axes(figure, 1, 1, 1, "10 nearest of a million vectors", xlabel="ms a query", ylabel="recall", xscale="log")
    for name, entry in read("search")["ann"]["results"]["random"].items():
        if "settings" in entry:
            best, ours = best_setting(entry["settings"]), name.startswith("ours")
            axes.plot(best["median"], best["recall"], "o", color=RED if ours else GREY)
            label = {"ours: TurboQuant, 4 bits": "pe index", "faiss IVF1024, 4-bit fast scan": "faiss, 4 bits"}.get(
                name
            )
            if label:
                side = "right" if ours else "left"
                axes.annotate(f" {label} ", (best["median"], best["recall"]), fontsize=8, va="top", ha=side)
    return figure


PLOTS: dict[str, Callable[[Read], Figure]] = {
    "parity": draw_parity,
    "speed": draw_speed,
    "scores_by_layer": draw_layers,
    "builtin_models": draw_builtin,
    "memory_and_faults": draw_memory,
    "search_quality": draw_search,
}
