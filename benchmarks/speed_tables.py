"""The tables of docs/results/speed.md: beside the best peer on two machines, other jobs, and what int8 costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.decode import ALL
from benchmarks.decode import OURS as SAMPLED
from benchmarks.embed import DECODE, DECODE_REDUCED, EMBED, ENCODE, INDEX
from benchmarks.results import Read, Rows, Tables
from perception_encoder.evaluation.statistics.bootstrap import EstimatedDifference

OURS, OTHER_MODEL, LIMIT = "perception-encoder", "CLIP of the same size", "limit"
EARLIER = " †"
"""Ends a cell that is of a run before the last."""
_USUAL = ", compiled, bfloat16"  # the setting of the other torch libraries in which they are fastest
_INT8 = f"{OURS}, OpenVINO, int8"
_KINDS = {"image": "images, {}", "single": "one image, {}", "text": "texts, {}", "caption": "captions, {}"}


def speed_tables(read: Read) -> Tables:
    """Return all tables by their headings; the first has none."""
    return {
        "": beside_peers(read("encode")),
        "With AMX": [*beside_peers(read("encode_amx"))],
        "Images a request, with AMX": by_request(read("requests")),
        "Files": [*file_rates(read("embed"))],
        "Videos": video_seconds(read("decode")),
        "Other jobs": [("job", "ratio", "here", "compared with", "rounds"), *_other_jobs(read)],
        "What int8 costs": int8_costs(read("int8")),
    }


def beside_peers(result: Mapping[str, Any]) -> Rows:
    """Return one row a tower: inputs a second of ours and of the best peer, then the ratios; † marks an earlier run."""
    rows: Rows = [("inputs a second", "bfloat16, default", "int8", "best peer", "its setting", "ratios", "rounds")]
    for kind, title in _KINDS.items():
        for name, tower in result["towers"].items():
            if name.endswith(f":{kind}"):
                rates = median_rates(tower)
                mark = EARLIER if "earlier" in tower or "summary" not in tower else ""
                job = title.format(name.partition(":")[0].removeprefix("PE-Core-")) + mark
                rows.append((job, *_beside(rates), str(len(next(iter(tower["speeds"].values()))))))
    return rows


def _beside(rates: Mapping[str, float]) -> Sequence[str]:
    peer = best_peer(rates)
    ours = [rate for rate in (best_float(rates), rates.get(_INT8)) if rate is not None]
    cells = [f"{rate:.3g}" for rate in ours] + ["–"] * (2 - len(ours))
    return (
        *cells,
        f"{rates[peer]:.3g}",
        peer.removesuffix(_USUAL),
        ", ".join(f"{rate / rates[peer]:.2f}" for rate in ours),
    )


def by_request(result: Mapping[str, Any]) -> Rows:
    """Return images a second by how many images a request computes and how many requests run at a time."""
    shapes = list(next(iter(result["speeds"].values())))
    rows: Rows = [("images a request × requests at once", *shapes, "rounds")]
    for name, speeds in result["speeds"].items():
        rates = (f"{median(speeds[shape]):.1f}" for shape in shapes)
        rows.append((name.removeprefix("PE-Core-"), *rates, str(len(speeds[shapes[0]]))))
    return rows


def file_rates(result: Mapping[str, Any]) -> Iterator[Sequence[str]]:
    """Yield images or frames a second from files to rows, and what limits them."""
    yield "from files, default precision", "a second", "encoding alone", "decoding alone", "limited by", "rounds"
    cases = {f"`pe embed`, small JPEGs, {name}": (EMBED, DECODE, speeds) for name, speeds in result["speeds"].items()}
    for label, case in result["media"].items():
        model, precision, kind = label.split(", ")
        if kind != "photographs" and precision == "auto" and INDEX["reduced"] in case["speeds"]:
            cases[f"`pe index`, {kind}, {model}"] = (INDEX["reduced"], DECODE_REDUCED, case["speeds"])
    for job, (way, decoding, speeds) in cases.items():
        rate, encode, decode = (median(speeds[name]) for name in (way, ENCODE, decoding))
        cells = (f"{value:.3g}" for value in (rate, encode, decode))
        limit = "decoding" if decode < encode else "encoding"
        yield job.replace("PE-Core-", ""), *cells, limit, str(len(speeds[way]))


def video_seconds(result: Mapping[str, Any]) -> Rows:
    """Return the CPU time that a minute of video takes, by codec."""
    minutes = result["seconds"] / 60
    rows: Rows = [("CPU seconds for a minute of video", "a frame each second", "all frames, PyAV", "share", "rounds")]
    for clip, ways in result["cpu_seconds"].items():
        ours, whole = (median(ways[name]) for name in (SAMPLED, ALL))
        cells = f"{ours / minutes:.2f}", f"{whole / minutes:.2f}", f"{ours / whole:.2f}", str(len(ways[ALL]))
        rows.append((clip, *cells))
    return rows


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


def best_peer(rates: Mapping[str, float]) -> str:
    """Return the label of the fastest that other libraries compute the same model, in any setting."""
    peers = {label: rate for label, rate in rates.items() if not label.startswith((OURS, OTHER_MODEL, LIMIT))}
    return max(peers, key=peers.__getitem__)


def best_float(rates: Mapping[str, float]) -> float:
    """Return the fastest of ours within the tolerance of float32."""
    return max(rate for label, rate in rates.items() if label.startswith(OURS) and label != _INT8)


def _alone(what: str, here: str, rounds: object = "–") -> Sequence[str]:
    return what, "–", here, "–", str(rounds)


def _ratio(
    what: str, ours: Sequence[float], theirs: Sequence[float], unit: str, other: str, digits: int = 1
) -> Sequence[str]:
    here, there = median(ours), median(theirs)
    cells = f"{here / there:.2f}", f"{here:,.{digits}f} {unit}", f"{other}: {there:,.{digits}f}"
    return what, *cells, str(min(len(ours), len(theirs)))


def _other_jobs(read: Read) -> Iterator[Sequence[str]]:
    search = read("search")
    for name, where in (("search", ""), ("search_amx", ", with AMX")):
        shell, bare = read(name)["shell"]["seconds"].values()
        yield _ratio(f"start of `pe search`{where} (lower is better)", shell, bare, "s", "`import torch`", 2)
    first = search["page"]["cold"]["first page"]
    yield _alone("`pe serve`, 100,000 images: first page", f"{median(first):,.0f} ms", len(first))
    training = read("train")["speeds"]
    for name, digits in (("nano, 128 px", 1), ("PE-Core-B16, 224 px", 2)):
        ours, theirs = (training[name][who] for who in ("ours", "open_clip"))
        yield _ratio(f"train, {name}", ours, theirs, "pairs/s", "open_clip", digits)
    model, parts = list(read("language_speed")["generation"].items())[-1]
    for precision in ("bfloat16", "int8"):
        steps = (parts["step"][name] for name in (f"OpenVINO, {precision}", "transformers, bfloat16"))
        ours, theirs = ([1 / seconds for seconds in step] for step in steps)
        yield _ratio(f"generate, {model}, {precision}", ours, theirs, "tokens/s", "transformers, bfloat16", 0)
    seconds = read("dense_speed")["seconds"]["pe track, 480 px"]
    yield _alone("`pe track`, 480 px, a frame", f"{1000 * median(seconds):.0f} ms", len(seconds))
