"""Write the tables and plots of docs/results from the JSON files there.

    python -m benchmarks.result_pages

A person writes a page, except for what is between its two table markers. Benchmarks and experiments write the JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_tables import gpu_tables
from benchmarks.result_plots import PLOTS
from benchmarks.results import Read, Rows, Tables, best_setting
from benchmarks.speed_tables import speed_tables
from experiments.builtin.card import compare_with_targets
from experiments.differences import find_signs, format_gap
from experiments.findings import GAINS, GAPS, all_gaps, dense_scores
from perception_encoder.evaluation.results import format_value, from_json
from perception_encoder.evaluation.statistics.bootstrap import holm, wilson_ends

RESULTS = Path(__file__).parent.parent / "docs" / "results"
MARKERS = ("<!-- table: written by python -m benchmarks.result_pages -->", "<!-- end of table -->")


def read_result(name: str) -> Any:
    """Return the content of docs/results/NAME.json."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def parity(read: Read) -> Rows:
    """One row a model: the largest relative error against each implementation."""
    errors: dict[str, dict[str, float]] = {}
    for row in read("parity")["rows"]:
        model = errors.setdefault(row["model"], {})
        model[row["oracle"]] = row["values"]
        if row["gradients"] is not None:
            model["gradients"] = max(row["gradients"], model.get("gradients", 0.0))
    columns = ("reference", "timm", "open_clip", "gradients")
    cells = [(name, *(f"{e[c]:.1e}" if c in e else "–" for c in columns)) for name, e in errors.items()]
    return [("model", "reference code", "timm", "open_clip", "gradients"), *cells]


FINDINGS: Sequence[tuple[str, str, str, str]] = (
    ("2.1", "steps 1–5 of the recipe against step 1: zero-shot on photographs", "recipe/1/5/photos", "+1.5"),
    ("2.1", "steps 1–7 against steps 1–5: the same", "recipe/5/7/photos", "+0.6"),
    ("2.1", "steps 1–9 against steps 1–7: the same", "recipe/7/9/photos", "+0.3"),
    ("2.4", "distilled against trained alone: zero-shot on photographs", "distillation/photos", "–"),
    (
        "2.2",
        "finetuned on video captions against titles: text to video R@5",
        "video/new clips: text to video R@5/+ video caption − title and description",
        "–",
    ),
    (
        "2.2",
        "captioner refined on simulated corrections against not refined: the same",
        "video/new clips: text to video R@5/+ frames: all − + frames, captioner not refined",
        "–",
    ),
    ("2.4", "finetuned on videos against before: photographs", "video/photographs/+ frames: all − nothing", "–"),
    ("3", "best layer against the output: segmentation", "layers/segmentation/built-in", "–"),
    ("3", "best layer against the output, step 1 alone: tracking", "layers/tracking/step 1", "–"),
    ("4", "aligned to a language model against before: questions", f"language/{GAINS}/questions", "–"),
    ("4", "language model frozen against trained: boxes", "language/the same, frozen/boxes", "−0.2, all tasks"),
    (
        "5",
        "last layer aligned to masks against before: segmentation",
        "spatial/segmentation/aligned to masks/last",
        "–",
    ),
    ("5", "the same: detection", "spatial/detection/aligned to masks/last", "–"),
    ("5", "the same: depth", "spatial/depth/aligned to masks/last", "–"),
    ("5", "the same: tracking of real videos", "spatial/tracking of real videos/aligned to masks/last", "–"),
    (
        "5",
        "aligned to masks and its own layer, as in the paper: segmentation",
        "spatial/segmentation/aligned to both/last",
        "–",
    ),
    ("5", "the same: detection", "spatial/detection/aligned to both/last", "–"),
    ("5", "the same: depth", "spatial/depth/aligned to both/last", "–"),
    ("5", "the same: tracking of real videos", "spatial/tracking of real videos/aligned to both/last", "–"),
    (
        "5",
        "aligned to its own layer alone: segmentation",
        "spatial/segmentation/aligned to its own layer/last",
        "–",
    ),
)
"""The paper's section, the comparison, its key among `all_gaps`, and the paper's own difference."""


def paper_in_small(read: Read) -> Rows:
    """One row a comparison; bold where it is significant among all comparisons of all experiments."""
    gaps = {"/".join(key): gap for key, gap in all_gaps({name: read(name) for name in GAPS}).items()}
    signs, corrected = find_signs(gaps), dict(zip(gaps, holm([gap.p_value for gap in gaps.values()]), strict=True))
    rows = [
        (section, what, format_gap(gaps[key], signs[key]), _p(corrected[key]), paper)
        for section, what, key, paper in FINDINGS
    ]
    return [("section", "comparison", "difference here (95 % interval)", "p, corrected", "in the paper"), *rows]


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def builtin_models(read: Read) -> Rows:
    """One row a task of each built-in model: its score, a baseline, and what was aimed at."""
    rows: Rows = [("model", "task", "score", "baseline", "aim")]
    result = from_json(json.dumps(read("builtin")), "builtin.json")
    classification, retrieval = compare_with_targets(result)
    for task, _, chance, squash, crop, _, aim in classification.rows:
        score = max(squash, crop, key=lambda cell: float(cell.split()[0]))
        rows.append(("builtin", f"zero-shot: {task}", score, f"chance {chance}", aim))
    for task, metric, _, chance, score, aim in retrieval.rows[:1]:
        rows.append(("builtin", f"{task}: {metric}", score, f"chance {chance}", aim))
    for row in read("builtin_language")["splits"]["test"]:
        ours, blind = (_with_interval(row["scores"][name]) for name in ("built-in", "without the image"))
        aim = "–" if row["aim"] is None else format_value(row["aim"], row["scores"]["built-in"]["unit"])
        rows.append(("builtin-lang", f"{row['name']}: {row['metric']}", ours, f"without the image {blind}", aim))
    for task, scores in dense_scores(read("dense")).items():
        ours, core = (_with_interval(scores[name]) for name in ("Spatial", "Core's last"))
        what = f"{task}: {scores['Spatial']['metric']}"
        rows.append(("builtin-spatial", what, ours, f"Core's last layer {core}", "–"))
    for row in read("video_interest")["rows"][:1]:
        low, high = row["interval"]
        score = f"{row['correlation']:.3f} ({low:.3f}–{high:.3f})"
        rows.append(("interest score", "rank correlation with the number of events", score, "–", "–"))
    return rows


def _with_interval(score: Mapping[str, Any]) -> str:
    value, unit, ends = score["value"], score["unit"], score["interval"]
    if ends is None and unit == "%" and value in (0, 1):  # all items agree
        ends = wilson_ends(value, score["n"])
    text = format_value(value, unit)
    return f"{text} ({'–'.join(format_value(end, unit) for end in ends)})" if ends else text


SERVERS = {"page": "the page", "api": "the embedding API", "chat": "both, with a language model"}
AIMS_MIB = {"page": 1024, "api": 1024, "chat": 1638}
FAULTS = (
    (
        "training, on one or two ranks, is killed",
        "the losses are those of a run without interruption, bit for bit",
        "tests/pretraining/test_parallel.py",
    ),
    ("a checkpoint is damaged", "the run resumes from the one before", "tests/training/test_loop.py"),
    (
        "`pe embed` is killed at any step of writing",
        "the embeddings are those of a run without interruption, bit for bit",
        "tests/test_store_users.py",
    ),
    ("`pe index` is killed 40 times", "no row is lost or doubled", "tests/search/storage/test_index_kill.py"),
    ("`pe engine run` is killed", "every result is there once", "tests/video_data_engine/test_stopped.py"),
)
"""What goes wrong, what happens then, and the test that does it."""


def memory_and_faults(read: Read) -> Rows:
    """Memory of a training step and of the servers, answers to bad requests, and what happens after a fault."""
    rows: Rows = [("what", "measured", "aim or test")]
    memory = read("memory")
    for mode, peaks in memory["peaks"].items():
        sizes = [size for size in peaks if size != "0"]
        ends = (f"{peaks[size] / 1e6:,.0f} MB" for size in (sizes[0], sizes[-1]))
        rows.append((f"a training step of {sizes[0]} and of {sizes[-1]} pairs, {mode}", ", ".join(ends), "–"))
    latest = read("server_memory")["runs"]["after"]
    for name, title in SERVERS.items():
        rows.append((f"`pe serve`, {title}: maximum", f"{latest[name]['peak']:,.0f} MiB", f"{AIMS_MIB[name]:,} MiB"))
    for name, title in SERVERS.items():
        answers = latest[name]["answers"]
        bad = {kind: count for kind, count in answers.items() if "damaged" in kind or "wrong" in kind}
        refused = sum(count for kind, count in bad.items() if kind.endswith(" 400"))
        share = f"{refused:,} of {sum(bad.values()):,} refused with status 400"
        rows.append((f"damaged images and wrong requests, {title}", share, "all"))
    rows += [(what, then, f"`{test}`") for what, then, test in FAULTS]
    return rows


def search_quality(read: Read) -> Rows:
    """Return recall and time of nearest neighbours, then the evaluators' scores given the truth and given noise."""
    rows: Rows = [("what", "measured", "compared with")]
    search = read("search")["ann"]
    for kind, size in (("random", 256), ("random, 1024 dimensions", 1024)):
        for name, entry in search["results"][kind].items():
            if "settings" in entry:
                best = best_setting(entry["settings"])
                value = f"recall {best['recall']:.3f} in {best['median']:.1f} ms"
                ours = name.startswith("ours")
                value += f" with {entry['peak']:,.0f} MB" if ours else ""
                aim = "recall 0.99 in 10 ms with 1,000 MB" if ours else "–"
                rows.append((f"10 of {search['rows']:,} vectors of {size}: {name}", value, aim))
    oracles: dict[tuple[str, str], dict[str, Any]] = {}
    for row in read("oracles")["rows"]:
        oracles.setdefault((row["task"], row["features"]), row)
    for task in dict.fromkeys(task for task, _ in oracles):
        truth = oracles[task, "the truth"]
        noise = oracles.get((task, "noise")) or oracles[task, "boxes anywhere"]
        value, low = (format_value(row["value"], row["unit"]) for row in (truth, noise))
        rows.append((f"evaluator of {task}, given the truth: {truth['metric']}", value, f"given noise: {low}"))
    return rows


FOUND = {
    "a": "receipts, screenshots and slides, drawn in 12 fonts",
    "b": "signs in photographs, turned up to 15° and blurred",
    "c, 320 px": "words in photographs of 320 px",
    "c, 128 px": "words in photographs of 128 px",
    "captions": "captions of COCO",
}
"""What is searched for, by its key in words.json."""


def words(read: Read) -> Rows:
    """One row a kind of query: how often a right image is the first hit, and among the first five, by each way."""
    recall, ways = read("words")["recall"], {"both": "both", "words": "words alone", "meaning": "meaning alone"}
    rows: Rows = [
        ("queries", "number", *(f"{name}: {top} (%)" for name in ways.values() for top in ("first", "top 5")))
    ]
    for name, title in FOUND.items():
        scores = [recall[name][way][top] for way in ways for top in ("r1", "r5")]
        percent = ([100 * value for value in (score["value"], *score["interval"])] for score in scores)
        cells = (f"{value:.1f} ({low:.1f}–{high:.1f})" for value, low, high in percent)
        rows.append((title, str(scores[0]["n"]), *cells))
    return rows


def gpu(read: Read) -> Tables:
    """One table a kind of job: see `benchmarks.gpu_tables`; without a result, all jobs are there with dashes."""
    return gpu_tables(read("gpu") if (RESULTS / "gpu.json").exists() else {"jobs": {}, "skipped": {}})


PAGES: dict[str, Callable[[Read], Rows | Tables]] = {
    "parity": parity,
    "speed": speed_tables,
    "gpu": gpu,
    "paper_in_small": paper_in_small,
    "builtin_models": builtin_models,
    "memory_and_faults": memory_and_faults,
    "search_quality": search_quality,
    "words": words,
}


def with_table(page: str, table: Rows | Tables, markers: tuple[str, str] = MARKERS) -> str:
    """Return a page with what is between its markers replaced; ValueError without the markers."""
    tables = table if isinstance(table, Mapping) else {"": table}
    parts = [part for title, rows in tables.items() for part in ([f"## {title}"] if title else []) + [_as_text(rows)]]
    start, end = markers
    before, _, rest = page.partition(start)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page needs the lines {start} and {end}")
    return "\n\n".join([before + start, *parts, end + after])


def _as_text(rows: Rows) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines)


def main() -> None:
    """Write every page's table, and every plot."""
    for name, table in PAGES.items():
        path = RESULTS / f"{name}.md"
        path.write_text(with_table(path.read_text(encoding="utf-8"), table(read_result)), encoding="utf-8")
    for name, draw in PLOTS.items():
        draw(read_result).savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
        svg = (RESULTS / f"{name}.svg").read_text(encoding="utf-8")
        (RESULTS / f"{name}.svg").write_text(re.sub(r" +\n", "\n", svg), encoding="utf-8")


if __name__ == "__main__":
    main()
