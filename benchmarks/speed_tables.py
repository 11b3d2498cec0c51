"""The tables of docs/results/speed.md: beside the best peer on two machines, other jobs, and what int8 costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.embed import EMBED, ENCODE, INDEX
from benchmarks.results import Read, Rows, Tables
from perception_encoder.evaluation.statistics.bootstrap import EstimatedDifference

OURS, OTHER_MODEL, LIMIT = "perception-encoder", "CLIP of the same size", "limit"
MACHINES = {"encode": "AMD EPYC, AVX-512", "encode_amx": "Intel Xeon, AMX"}
"""Files of results, one a machine, and what the page calls it."""
EARLIER = " †"
"""Ends a cell that is of a run before the last."""
_INT8 = f"{OURS}, OpenVINO, int8"
_KINDS = {"image": "images, {}", "single": "a single image, {}", "text": "texts, {}", "caption": "captions, {}"}


def speed_tables(read: Read) -> Tables:
    """Return all tables by their headings; the first has none."""
    return {
        "": beside_peers({name: read(file) for file, name in MACHINES.items()}, read),
        "Other jobs": [("job", "ratio", "here", "compared with"), *_other_jobs(read)],
        "What int8 costs": int8_costs(read("int8")),
    }


def beside_peers(machines: Mapping[str, Mapping[str, Any]], read: Read) -> Rows:
    """Return one row a job and two columns a machine, bfloat16 and int8: the ratio to the best peer, and our rate."""
    ratios = {name: _ratios(result) for name, result in machines.items()}
    towers = next(iter(machines.values()))["towers"]
    heads = [f"{name}, {_rounds(result)} rounds" for name, result in machines.items()]
    rows: Rows = [("job", *(f"{head}: {kind}" for head in heads for kind in ("bfloat16", "int8")))]
    for kind, title in _KINDS.items():
        for tower in (name for name in towers if name.endswith(f":{kind}")):
            cells = [cell for of_machine in ratios.values() for cell in of_machine.get(tower, ("–", "–"))]
            rows.append((title.format(tower.partition(":")[0].removeprefix("PE-Core-")), *cells))
    none = ("–", "–") * (len(machines) - 1)
    rows += [(job, *cells, *none) for job, cells in _index_rows(read("embed")["media"]).items()]
    for row in read("peers")["rows"]:
        cells = [f"{rate / row['peer']:.2f} ({rate:.3g}/s)" for rate in row["rates"].values()]
        rows.append((row["job"], *cells, *none))
    shell, bare = map(median, read("search")["shell"]["seconds"].values())
    starts = [
        machine.get("start", {"pe search": shell, "import torch": bare}).values() for machine in machines.values()
    ]
    cells = [cell for search, torch in starts for cell in (f"{search / torch:.2f} ({search:.2f} s)", "–")]
    return [*rows, ("start, time of `pe search` ÷ `import torch` (lower is better)", *cells)]


def _ratios(result: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return a machine's cells by tower: ratios alone if its rates were not kept, marked if the run kept no summary."""
    cells = {name: tuple(f"{ratio:.2f}" for ratio in pair.values()) for name, pair in result.get("ratios", {}).items()}
    for name, tower in result["towers"].items():
        rates = median_rates(tower)
        best, mark = best_peer(rates), "" if "summary" in tower else EARLIER
        ours = best_float(rates), rates.get(_INT8)
        cells[name] = tuple("–" if rate is None else f"{rate / best:.2f} ({rate:.3g}/s){mark}" for rate in ours)
    return cells  # type: ignore[return-value]


def _rounds(result: Mapping[str, Any]) -> str:
    """Return how many rounds a machine's contenders took, from the fewest to the most."""
    counts = [len(rates) for tower in result["towers"].values() for rates in tower["speeds"].values()]
    counts.append(result.get("rounds", counts[0] if counts else 0))
    return "–".join(map(str, sorted({min(counts), max(counts)})))


def _index_rows(media: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return, by job, the share of encoding alone that indexing or embedding files reaches, and its rate.

    A run that did not time both decodings is an earlier one.
    """
    cells: dict[str, list[str]] = {}
    for label, case in media.items():
        model, precision, kind = label.split(", ")
        part = INDEX["reduced"] if INDEX["reduced"] in case["speeds"] else EMBED
        if kind != "photographs":  # of 640 × 480: see the other jobs
            rate, alone = (median(case["speeds"][name]) for name in (part, ENCODE))
            job = f"index {kind}, {model.removeprefix('PE-Core-')} ÷ encoding alone"
            mark = "" if INDEX["exact"] in case["speeds"] else EARLIER
            cells.setdefault(job, ["–", "–"])[precision == "int8"] = f"{rate / alone:.2f} ({rate:.3g}/s){mark}"
    return cells


def int8_costs(result: Mapping[str, Any]) -> Rows:
    """Return what int8 changes: embeddings of random models, and scores of the built-in ones."""
    rows: Rows = [("int8 against float32", "images", "texts")]
    for name, by_tower in result["towers"]["models"].items():
        cells = [by_tower[tower] for tower in ("image", "text")]
        rows.append((name, *(f"{one['cosine']:.5f} ({one['kept neighbours']:.0%})" for one in cells)))
    scores = [row for row in result["builtin"]["rows"] if row["metric"] == "mean class accuracy"]
    for what in ("zero-shot", "20-NN"):
        worst = min((row for row in scores if row["task"].endswith(what)), key=lambda row: float(row["difference"]))
        rows.append((f"builtin, {what}, worst of five: {worst['task'].partition(',')[0]}", _difference(worst), "–"))
    questions = next(row for row in result["language"]["rows"] if row["metric"] == "accuracy")
    return [*rows, (f"builtin-lang, {questions['n']} questions", _difference(questions), "–")]


def _difference(row: Mapping[str, Any]) -> str:
    """Return a difference in points with its interval; if no item differs, with what n items can tell."""
    none, ends = EstimatedDifference(value=0.0, draws=np.zeros(1), blocks=row["n"]), row["interval"]
    if ends is not None and not any(ends):
        ends = none.interval()
    return f"{100 * row['difference']:+.2f}" + (f" ({100 * ends[0]:+.2f} to {100 * ends[1]:+.2f})" if ends else "")


def median_rates(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a tower's medians by contender."""
    return {label: median(values) for label, values in result["speeds"].items()}


def best_peer(rates: Mapping[str, float]) -> float:
    """Return the fastest that other libraries compute the same model, in any setting."""
    return max(rate for label, rate in rates.items() if not label.startswith((OURS, OTHER_MODEL, LIMIT)))


def best_float(rates: Mapping[str, float]) -> float:
    """Return the fastest of ours within the tolerance of float32."""
    return max(rate for label, rate in rates.items() if label.startswith(OURS) and label != _INT8)


def _alone(what: str, here: str) -> Sequence[str]:
    return what, "–", here, "–"


def _ratio(what: str, ours: float, theirs: float, unit: str, other: str, digits: int = 1) -> Sequence[str]:
    return what, f"{ours / theirs:.2f}", f"{ours:,.{digits}f} {unit}", f"{other}: {theirs:,.{digits}f}"


def _other_jobs(read: Read) -> Iterator[Sequence[str]]:
    for name, by_part in read("embed")["speeds"].items():
        rate, alone = (median(by_part[part]) for part in (EMBED, ENCODE))
        yield _ratio(f"embed small JPEGs, {name}", rate, alone, "images/s", "encoding alone")
    search = read("search")
    first = median(search["page"]["cold"]["first page"])
    yield _alone("`pe serve`, 100,000 images: first page", f"{first:,.0f} ms")
    for kind, loads in search["server"]["loads"].items():
        yield _alone(f"embedding server, {kind}s, 64 clients", f"{loads['64']['rate']:,.0f} answers/s")
    training = read("train")["speeds"]
    for name in ("nano, 128 px", "PE-Core-B16, 224 px"):
        ours, theirs = (median(training[name][who]) for who in ("ours", "open_clip"))
        yield _ratio(f"train, {name}", ours, theirs, "pairs/s", "open_clip", 1 if theirs > 10 else 2)
    model, parts = list(read("language_speed")["generation"].items())[-1]
    for precision in ("bfloat16", "int8"):
        ours, theirs = (
            1 / median(parts["step"][name]) for name in (f"OpenVINO, {precision}", "transformers, bfloat16")
        )
        yield _ratio(f"generate, {model}, {precision}", ours, theirs, "tokens/s", "transformers, bfloat16", 0)
    seconds = read("dense_speed")["seconds"]
    yield _alone("`pe track`, 480 px, a frame", f"{1000 * median(seconds['pe track, 480 px']):.0f} ms")
