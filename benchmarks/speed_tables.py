"""The tables of docs/results/speed.md: one a task, the ratio first, and where results may differ, their quality."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from benchmarks.result_pages import Read, Rows, Tables
from perception_encoder.evaluation.statistics.bootstrap import EstimatedDifference

OURS, OTHER_MODEL, LIMIT = "perception-encoder", "CLIP of the same size", "limit"
HEAD = ("job", "ratio", "here", "compared with")
_INT8 = f"{OURS}, OpenVINO, int8"
_KINDS = {"image": "images", "single": "a single image", "text": "texts", "caption": "captions"}


def speed_tables(read: Read) -> Tables:
    """Return all tables by their headings."""
    towers = read("encode")["towers"]
    measured = {name.partition(":")[2] for name in towers}
    return {
        **{f"Encode {what}": encoding_table(towers, kind) for kind, what in _KINDS.items() if kind in measured},
        **int8_tables(read("int8")),
        "From files to vectors": [HEAD, *_files(read)],
        "Search and serve": [HEAD, *_searching(read)],
        "Train": [HEAD, *_training(read)],
        "Language models": [HEAD, *_language(read)],
        "Dense tasks": [HEAD, *_dense(read)],
        "Synthetic data": [HEAD, *_rendering(read)],
    }


def encoding_table(towers: Mapping[str, Any], kind: str) -> Rows:
    """Return one row a contender and one column a tower: ratio to the best peer, rate, minimum cosine to float32."""
    chosen = {name: result for name, result in towers.items() if name.endswith(f":{kind}")}
    rates = {name: median_rates(result) for name, result in chosen.items()}
    labels = list(dict.fromkeys(label for by_label in rates.values() for label in by_label))
    rows: Rows = [("", *(name.partition(":")[0].removeprefix("PE-Core-") for name in chosen))]
    for label in labels:
        cells = [_cell(result, rates[name], label) for name, result in chosen.items()]
        rows.append((f"**{label}**" if label.startswith(OURS) else label, *cells))
    summary = {
        "best of ours / best peer": lambda all_rates: max(_of(all_rates, OURS).values()) / best_peer(all_rates),
        "best of ours without int8 / best peer": lambda all_rates: best_float(all_rates) / best_peer(all_rates),
        "best of ours without int8 / best peer without int8": lambda all_rates: (
            best_float(all_rates) / best_peer({label: rate for label, rate in all_rates.items() if "int8" not in label})
        ),
        "ours / bare products, OpenVINO, bfloat16": lambda all_rates: _share(all_rates, "bfloat16"),
        "ours / bare products, OpenVINO, int8": lambda all_rates: _share(all_rates, "int8"),
    }
    for what, ratio in summary.items():
        rows.append((f"**{what}**", *(f"**{ratio(rates[name]):.2f}**" for name in chosen)))
    rows.append(("cores; of these, used by other programs; rounds", *map(_circumstances, chosen.values())))
    return rows


def int8_tables(result: Mapping[str, Any]) -> Tables:
    """Return what int8 costs: embeddings of random models, scores of the built-in ones, and other methods."""
    models, methods = result["towers"]["models"], result["methods"]["models"]
    similarity: Rows = [("model", "images", "texts")]
    for name, by_tower in models.items():
        cells = [by_tower[tower] for tower in ("image", "text")]
        similarity.append((name, *(f"{one['cosine']:.5f} ({one['kept neighbours']:.0%})" for one in cells)))
    scores: Rows = [("task", "n", "float32", "int8", "difference")]
    for row in (*result["builtin"]["rows"], *result["language"]["rows"]):
        if row["metric"].startswith("top-"):
            continue  # beside the mean over classes
        values = (f"{100 * row[precision]:.1f}" for precision in ("float32", "int8"))
        scores.append((f"{row['task']}: {row['metric']}", f"{row['n']:,}", *values, _difference(row)))
    ways: Rows = [("method", *(name.removeprefix("PE-Core-") for name in methods))]
    for method in next(iter(methods.values())):
        cells = []
        for by_method in methods.values():
            ratio = median(by_method[method]["speeds"]) / median(by_method["bfloat16"]["speeds"])
            cells.append(f"{ratio:.2f} ({by_method[method]['cosine']:.5f})")
        ways.append((method, *cells))
    return {
        "Int8: similarity to float32": similarity,
        "Int8: scores of the built-in models": scores,
        "Int8: ways to quantise": ways,
    }


def _difference(row: Mapping[str, Any]) -> str:
    """Return a difference with its interval; if no item differs, with what n items can tell."""
    none, ends = EstimatedDifference(value=0.0, draws=np.zeros(1), blocks=row["n"]), row["interval"]
    if ends is not None and not any(ends):
        ends = none.interval()
    return f"{100 * row['difference']:+.2f}" + (f" ({100 * ends[0]:+.2f} to {100 * ends[1]:+.2f})" if ends else "")


def _circumstances(result: Mapping[str, Any]) -> str:
    """Say what disturbed a run: other programs make its ratios rough."""
    cores, others, rounds = result["machine"]["cores"], result["others"], max(map(len, result["speeds"].values()))
    warning = ", **too many for exact ratios**" if others > 0.1 * cores else ""
    return f"{cores}; {others:.2f}{warning}; {rounds}"


def median_rates(result: Mapping[str, Any]) -> dict[str, float]:
    """Return a tower's medians by contender."""
    return {label: median(values) for label, values in result["speeds"].items()}


def best_peer(rates: Mapping[str, float]) -> float:
    """Return the fastest that other libraries compute the same model, in any setting."""
    return max(rate for label, rate in rates.items() if not label.startswith((OURS, OTHER_MODEL, LIMIT)))


def best_float(rates: Mapping[str, float]) -> float:
    """Return the fastest of ours within the tolerance of float32."""
    return max(rate for label, rate in _of(rates, OURS).items() if label != _INT8)


def _share(rates: Mapping[str, float], precision: str) -> float:
    """Return the share of the bare products' rate that our towers reach in OpenVINO."""
    limit = rates[f"{LIMIT}: bare products, OpenVINO, {precision}"]
    return rates.get(f"{OURS}, OpenVINO, {precision}", 0.0) / limit


def _of(rates: Mapping[str, float], who: str) -> dict[str, float]:
    return {label: rate for label, rate in rates.items() if label.startswith(who)}


def _cell(result: Mapping[str, Any], rates: Mapping[str, float], label: str) -> str:
    if label not in rates:
        return "–"
    cosine = result["cosines"].get(label)
    quality = "" if cosine is None else f", {min(cosine, 1.0):.4f}"
    return f"{rates[label] / best_peer(rates):.2f} ({rates[label]:.3g}/s{quality})"


def _alone(what: str, here: str, other: str = "–") -> Sequence[str]:
    return what, "–", here, other


def _ratio(what: str, ours: float, theirs: float, unit: str, other: str, digits: int = 1) -> Sequence[str]:
    return what, f"{ours / theirs:.2f}", f"{ours:,.{digits}f} {unit}", f"{other}: {theirs:,.{digits}f}"


def _files(read: Read) -> Iterator[Sequence[str]]:
    embedding = read("embed")
    for name, by_part in embedding["speeds"].items():
        directory, encode = (median(by_part[part]) for part in ("directory to file", "encode only"))
        yield _ratio(f"embed a directory of JPEGs with {name}", directory, encode, "images/s", "encoding alone")
    for label, case in embedding["media"].items():
        model, precision, media = label.split(", ")
        rates = {part: median(values) for part, values in case["speeds"].items()}
        encode, decode = rates["encode only"], rates["decode only"]
        unit = "frames/s" if "video" in media else "images/s"
        both = f"encoding alone: {encode:,.1f}; decoding and then encoding: {1 / (1 / encode + 1 / decode):,.1f}"
        for part, verb in (("directory to file", "embed"), ("directory to rows of an index", "index")):
            if part in rates:
                job = f"{verb} {media} with {model}, {precision}"
                yield job, f"{rates[part] / encode:.2f}", f"{rates[part]:,.1f} {unit}", both
    result = read("search")
    for name, speeds in result["indexing"]["speeds"].items():
        yield _ratio(
            f"index a directory with {name}",
            median(speeds["directory to index"]),
            median(speeds["encode only"]),
            "images/s",
            "encoding alone",
        )
    video = {name: median(values) for name, values in result["video"]["speeds"].items()}
    peer = video.pop("PyAV, all frames decoded")
    for name in ("8 uniform frames (`read_frames`)", "a frame each second (`sample_frames`)"):
        yield _alone(f"read a video: {name}", f"{video[name]:.0f} frames/s", f"PyAV, all frames: {peer:.0f}")


def _training(read: Read) -> Iterator[Sequence[str]]:
    for name, speeds in read("train")["speeds"].items():
        ours, theirs = median(speeds["ours"]), median(speeds["open_clip"])
        digits = 1 if theirs > 10 else 2
        yield _ratio(f"train, {name}", ours, theirs, "pairs/s", "open_clip's model and loss", digits)
    steps = {name: 1000 * median(values) for name, values in read("spatial_speed")["steps"].items()}
    plain, aligned = steps["plain forward and backward"], steps["alignment step"]
    yield _ratio("spatial alignment, a step of 32 images", aligned, plain, "ms", "forward and backward alone", 0)


def _language(read: Read) -> Iterator[Sequence[str]]:
    result = read("language_speed")
    for model, parts in result["generation"].items():
        rates = {name: 1 / median(values) for name, values in parts["step"].items()}
        for name, rate in rates.items():
            runtime, precision = name.split(", ")
            peer = f"transformers, {'bfloat16' if precision == 'int8' else precision}"
            if runtime != "transformers":
                job = f"generate text with {model}: {name}"
                yield _ratio(job, rate, rates[peer], "tokens/s", peer, 0 if rates[peer] > 10 else 1)
    yield _alone("first token after an image of 448 px", f"{median(result['first_token']):.2f} s")


def _searching(read: Read) -> Iterator[Sequence[str]]:
    result = read("search")
    cold, warm = (result["page"][state] for state in ("cold", "warm"))
    for what, milliseconds in (
        ("from the start of `pe serve` to the page of 100,000 images in the browser", cold["first page"]),
        ("the first query after it", cold["first query"]),
        ("the page, warm", warm["first page"]),
        ("a query, warm", warm["first query"]),
    ):
        yield _alone(what, f"{median(milliseconds):,.0f} ms")
    shell, bare = (median(values) for values in result["shell"]["seconds"].values())
    yield _alone("`pe search` over 1,000 indexed images", f"{shell:.2f} s", f"`import torch`: {bare:.2f} s")
    for kind, loads in result["server"]["loads"].items():
        for clients in ("1", "64"):
            load, noun = loads[clients], "client" if clients == "1" else "clients"
            rate = f"{load['rate']:,.0f} answers/s, p50 {load['p50']:.0f} ms, p99 {load['p99']:.0f} ms"
            yield _alone(f"embedding server, {kind}s, {clients} {noun}", rate)


def _dense(read: Read) -> Iterator[Sequence[str]]:
    for name, seconds in read("dense_speed")["seconds"].items():
        command = name.replace("--like", "--point").replace(", ", "`, ")  # the option's former name
        yield _alone(f"`{command}, one frame", f"{1000 * median(seconds):.0f} ms")


def _rendering(read: Read) -> Iterator[Sequence[str]]:
    engine = read("engine_speed")
    rate = 60 * engine["clips"] / engine["engine"]["total_seconds"]
    yield _alone("`pe engine run` with the built-in models", f"{rate:.1f} videos/minute")
    for row in read("scenes")["rates"]:
        yield _alone(f"render {row['what']} of {row['side']} px", f"{row['rate']:.1f} a second")
