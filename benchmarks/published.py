"""Evaluate published weights on public test sets and compare with the published results.

    python -m benchmarks.published PE-Core-B16-224 [--tasks imagenetv2,coco] [--limit 500] [--out published]

Weights and test sets are downloaded once, through huggingface_hub and datasets; `--data imagenet=PATH` gives a copy of
your own. It first states time and disk space. Each dataset is evaluated in float32, bfloat16 and int8; its result is a
JSON file below `--out`, as of `pe eval -o`, so that a rerun only does what is missing. What cannot be had is one line;
the other rows still run. A whole run, one without `--limit`, fills the column "measured" of docs/published_results.md.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from perception_encoder import __version__
from perception_encoder.datasets.published import (
    DATASETS,
    PublishedDataset,
    dataset_arguments,
    directory_of,
    download_bytes,
    fetch,
)
from perception_encoder.errors import ConfigError, PerceptionEncoderError, one_line
from perception_encoder.evaluation.comparison import Table
from perception_encoder.evaluation.results import Result, read_result, to_json
from perception_encoder.evaluation.statistics.bootstrap import Metric
from perception_encoder.files import file_state, write_text
from perception_encoder.models.registry import canonical_name, find_model

DOCS = Path(__file__).parent.parent / "docs"
PAGE, RECORD = DOCS / "published_results.md", DOCS / "published_results.json"
MARKERS = ("<!-- table: written by python -m benchmarks.published -->", "<!-- end of table -->")
PRECISIONS = ("float32", "bfloat16", "int8")
DENSE = ("tracking", "segmentation", "depth")
CORE = tuple(f"PE-Core-{size}" for size in ("T16-384", "S16-384", "B16-224", "L14-336", "G14-448"))
SPATIAL = tuple(f"PE-Spatial-{size}" for size in ("T16-512", "S16-512", "B16-512", "L14-448", "G14-448"))
PLM = tuple(f"facebook/Perception-LM-{size}" for size in ("1B", "3B", "8B"))
README, PLM_README = "readme", "readme of PLM"
TEXT_TO_ITEM = "text to item, dual softmax R@1"


class Published(NamedTuple):
    """Results of one metric, in percent or in its unit, by model."""

    dataset: str
    metric: str
    source: str
    values: Mapping[str, float]
    arguments: Mapping[str, Any] = {}
    """Those of the evaluation, besides the dataset's."""
    other: str = ""
    """Why ours is not the same quantity, if it is not: no difference is given."""


def _by_size(models: Sequence[str], *values: float | None) -> dict[str, float]:
    return {model: value for model, value in zip(models, values, strict=True) if value is not None}


_G, _SPATIAL_G = CORE[-1], SPATIAL[-1]
_HIDDEN = "the split with public answers; published on test"
PUBLISHED = (
    Published("imagenet", "top-1", README, _by_size(CORE, 62.1, 72.7, 78.4, 83.5, 85.4)),
    Published("imagenetv2", "top-1", README, _by_size(CORE, 54.7, 65.0, 71.7, 77.9, 80.2)),
    Published("imagenet-a", "top-1", README, _by_size(CORE, 21.1, 49.5, 62.4, 89.0, 92.6)),
    Published("objectnet", "top-1", README, _by_size(CORE, 43.9, 60.0, 71.9, 84.7, 88.2)),
    Published("kinetics400", "top-1", README, _by_size(CORE, 41.5, 55.0, 65.6, 73.4, 76.9)),
    Published("coco", TEXT_TO_ITEM, README, _by_size(CORE, 33.0, 42.6, 50.9, 57.1, 58.1)),
    Published("msrvtt", TEXT_TO_ITEM, README, _by_size(CORE, 28.8, 39.3, 47.6, 50.3, 51.2)),
    Published("flickr30k", TEXT_TO_ITEM, "", {}),
    Published("pvd-bench", TEXT_TO_ITEM, "", {}),
    Published("davis2017", "J&F", "paper, section 5", {_G: 56.8}, {"layer": 31}),
    Published("davis2017", "J&F", README, _by_size(SPATIAL, 55.0, 57.5, 58.9, 60.6, 61.5)),
    Published("ade20k", "mIoU", "paper, section 5", {_G: 41.5}, {"layer": 43}),
    Published("ade20k", "mIoU", README, _by_size(SPATIAL, 27.6, 37.5, 44.4, 48.1, None)),
    Published("ade20k", "mIoU", "paper, section 5", {_SPATIAL_G: 49.3}, {"layer": 48}),
    Published("nyuv2", "RMSE", "paper, section 5", {_G: 0.249}, {"layer": 38}),
    Published("nyuv2", "RMSE", "paper, section 5", {_SPATIAL_G: 0.262}, {"layer": 45}),
    Published("docvqa", "ANLS", PLM_README, _by_size(PLM, 90.7, 93.8, 94.6), other=_HIDDEN),
    Published("infovqa", "ANLS", PLM_README, _by_size(PLM, 63.0, 74.6, 80.9), other=_HIDDEN),
    Published("chartqa", "relaxed accuracy", PLM_README, _by_size(PLM, 78.6, 84.3, 85.5)),
    Published("nocaps", "CIDEr", PLM_README, _by_size(PLM, 124.2, 126.5, 129.9)),
    Published("flickr30k-captions", "CIDEr", PLM_README, _by_size(PLM, 100.5, 98.0, 105.6)),
    Published("videomme", "accuracy", PLM_README, _by_size(PLM, 49.2, 54.9, 58.3), {"frames": 32}),
    Published("star", "accuracy", PLM_README, _by_size(PLM, 83.7, 84.8, 84.9), {"frames": 32}),
    Published("egoschema", "accuracy", PLM_README, _by_size(PLM, 60.4, 66.9, 68.8), {"frames": 32}, _HIDDEN),
    Published("perceptiontest", "accuracy", PLM_README, _by_size(PLM, 72.7, 79.3, 82.7), {"frames": 32}, _HIDDEN),
)
"""Published results that a dataset of `DATASETS` can be compared with; without values, results that we add."""


def family(model: str) -> tuple[str, ...]:
    """Return the tasks of a model: of two towers, of a vision tower, or of a language model."""
    name = canonical_name(model)
    if model in PLM or (name is None and "perception-lm" in model.lower()):
        return ("questions",)
    if name is not None and find_model(name).text is None:
        return DENSE
    return ("classification", "retrieval", *DENSE)


def choose(model: str, tasks: str) -> list[Published]:
    """Return what to evaluate: the named datasets, or all that have a published result, or none for any model.

    Raises ConfigError for an unknown dataset, and one that is not for this kind of model.
    """
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if unknown := [name for name in names if name not in DATASETS]:
        raise ConfigError(f"unknown dataset {unknown[0]!r}; known: {', '.join(DATASETS)}")
    kinds, shown = family(model), canonical_name(model) or model
    chosen = []
    for name in names or dict.fromkeys(row.dataset for row in PUBLISHED):
        kind = DATASETS[name].task
        if kind not in kinds:
            if names:
                raise ConfigError(f"{name} is for {kind}; {model} does {', '.join(kinds)}")
            continue
        rows = [row for row in PUBLISHED if row.dataset == name]
        same = [row for row in rows if shown in row.values] or [row for row in rows if not row.values]
        if same or names:
            chosen.append(same[0] if same else unpublished(rows, name))
    return chosen


def unpublished(rows: Sequence[Published], name: str) -> Published:
    """Return the evaluation of a dataset that has no published result for the model."""
    metrics = {"classification": "top-1", "retrieval": TEXT_TO_ITEM, "tracking": "J&F", "segmentation": "mIoU"}
    metric = rows[0].metric if rows else metrics.get(DATASETS[name].task, "RMSE")
    return Published(name, "" if DATASETS[name].task == "questions" and not rows else metric, "", {})


def state(model: str, rows: Sequence[Published], own: Mapping[str, Path], limit: int | None, runs: int) -> list[str]:
    """Return lines that state the disk space and the time that a run will need."""
    entry = find_model(model) if canonical_name(model) else None
    total, lines = float(entry.download_bytes if entry else 0), []
    lines.append(f"{model}: {total / 1e9:.1f} GB of weights")
    seconds = 0.0
    for row in rows:
        dataset = DATASETS[row.dataset]
        items = min(dataset.items, limit or dataset.items)
        seconds += runs * _seconds(model, dataset, items)
        size = "your copy"
        if row.dataset not in own:
            try:
                missing = download_bytes(dataset)
                total, size = total + missing, f"{missing / 1e9:.2f} GB" if missing else "downloaded"
            except Exception as error:  # of the hub's client: it is reported again, and fatal to this row, when it runs
                size = f"size unknown: {one_line(error, first=True)}"
        lines.append(f"  {row.dataset}: {items:,} items, {size}, licence: {dataset.licence}")
    free = shutil.disk_usage(_existing(directory_of(DATASETS["coco"]))).free
    lines.append(
        f"To download: {total / 1e9:.1f} GB into {directory_of(DATASETS['coco']).parent}; free: {free / 1e9:.1f} GB"
    )
    lines.append(
        f"Time to compute: about {seconds / 3600:.1f} hours on this machine, without downloads and fitting heads"
    )
    return lines


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _seconds(model: str, dataset: PublishedDataset, items: int) -> float:
    """Return the seconds to encode a dataset once, from the model's shape and the speed of a product of matrices."""
    if canonical_name(model) is None:
        return 0.0
    vision = find_model(model).vision
    tokens = (vision.image_size[0] if isinstance(vision.image_size, tuple) else vision.image_size) // vision.patch_size
    frames = 8 if dataset.videos else 1
    transforms = 1 if dataset.task in DENSE else 2
    return 2 * vision.parameters * tokens**2 * items * frames * transforms / _speed()


def _speed() -> float:
    """Return the operations per second of a float32 product, measured once."""
    import torch

    if not _SPEEDS:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        matrix = torch.ones(1024, 1024, device=device)
        float((matrix @ matrix)[0, 0])
        start = time.perf_counter()
        for _ in range(3):
            product = matrix @ matrix
        float(product[0, 0])
        _SPEEDS.append(3 * 2 * 1024**3 / (time.perf_counter() - start))
    return _SPEEDS[0]


_SPEEDS: list[float] = []


class Models:
    """A model in each precision, loaded when first needed; one at a time is in memory."""

    def __init__(self, name: str) -> None:
        self.name, self._key, self._model = name, ("", ""), None

    def get(self, task: str, precision: Any) -> Any:
        """Return the model for a task in a precision; ConfigError where there is none."""
        kind = "layers" if task in DENSE else "questions" if task == "questions" else "encoder"
        if (kind, precision) != self._key:
            self._model, self._key = None, ("", "")
            self._model, self._key = self._load(kind, precision), (kind, precision)
        return self._model

    def _load(self, kind: str, precision: Any) -> Any:
        if kind == "encoder":
            from perception_encoder.inference.load import load

            return load(self.name, precision=precision)
        if kind == "questions":
            from perception_encoder.language_alignment.load import load_language_model

            return load_language_model(self.name, precision=precision)
        if precision == "int8":
            raise ConfigError("int8 executes encoders, not the layers below dense tasks")
        import torch

        from perception_encoder.inference.load import load_layers

        return load_layers(self.name, dtype=getattr(torch, precision))


def evaluate_row(
    row: Published, models: Models, precision: str, root: Path, out: Path, limit: int | None
) -> tuple[Result, bool]:
    """Return the result of a dataset in a precision, and whether it was there already."""
    from perception_encoder.api import evaluate

    dataset = DATASETS[row.dataset]
    path = out / Path(models.name).name / precision / f"{row.dataset}.json"
    settings = {
        "limit": str(limit or ""),
        "data": str(root.resolve()),
        "model": file_state(models.name),
        "arguments": json.dumps(dict(row.arguments), sort_keys=True),
        "perception-encoder": __version__,
    }
    if path.exists():
        found = read_result(path)
        if all(found.about.get(name) == value for name, value in settings.items()):
            return found, True
    model = models.get(dataset.task, precision)
    arguments = dataset_arguments(dataset, root) | dict(row.arguments)
    if dataset.task == "questions":
        arguments["records"] = path.with_suffix(".jsonl")
    data = root if root.is_file() else arguments.pop("data")
    arguments.pop("data", None)
    result = evaluate(dataset.task, model, data, items=limit, **arguments)
    result = replace(result, about={**result.about, **settings})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(result))
    return result, False


def best_metric(result: Result, name: str) -> Metric:
    """Return a metric of a result, of the better transform, as the paper reports it; ConfigError if it has none."""
    found = [item for m in result.measurements for item in m.metrics if not name or item.name == name]
    if not found:
        names = ", ".join(sorted({item.name for m in result.measurements for item in m.metrics}))
        raise ConfigError(f"{result.measurements[0].task} has no metric {name!r}, but {names}")
    if not name:
        return found[0]
    return min(found, key=lambda item: item.value if item.lower_is_better else -item.value)


def compare(row: Published, model: str, precision: str, metric: Metric, limit: int | None) -> dict[str, Any]:
    """Return ours, the published result, their difference, and its interval, which is that of ours, shifted."""
    percent = 100.0 if metric.unit == "%" or metric.name == "CIDEr" else 1.0
    ours, published = metric.value * percent, row.values.get(canonical_name(model) or model)
    other = row.other or ("another number of items" if limit and DATASETS[row.dataset].task == "retrieval" else "")
    gap = None if published is None or other else ours - published
    ends = [end * percent for end in metric.interval] if metric.interval else None
    return {
        "dataset": row.dataset,
        "metric": metric.name,
        "model": canonical_name(model) or model,
        "precision": precision,
        "n": metric.n,
        "unit": "%" if metric.unit == "%" else metric.unit,
        "ours": ours,
        "interval": ends,
        "published": published,
        "source": row.source,
        "difference": gap,
        "difference_interval": None if gap is None or ends is None else [end - (published or 0.0) for end in ends],
        "not_comparable": other,
    }


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """State the cost, evaluate all rows, and return the comparisons; print what failed."""
    rows, own = choose(args.model, args.tasks), dict(_own(item) for item in args.data)
    precisions = [name.strip() for name in args.precision.split(",")]
    if bad := [name for name in precisions if name not in PRECISIONS]:
        raise ConfigError(f"unknown precision {bad[0]!r}; known: {', '.join(PRECISIONS)}")
    if strange := [name for name in own if name not in DATASETS]:
        raise ConfigError(f"--data names no dataset: {strange[0]!r}; known: {', '.join(DATASETS)}")
    print("\n".join(state(args.model, rows, own, args.limit, len(precisions))), flush=True)
    compared, roots = [], dict[str, Path]()
    for row in rows:
        try:
            roots[row.dataset] = own.get(row.dataset) or fetch(DATASETS[row.dataset])
        except PerceptionEncoderError as error:
            print(f"{row.dataset}: skipped: {error}", flush=True)
    models = Models(args.model)
    for precision in precisions:
        for row in rows:
            if row.dataset not in roots:
                continue
            try:
                result, stored = evaluate_row(row, models, precision, roots[row.dataset], args.out, args.limit)
                compared.append(compare(row, args.model, precision, best_metric(result, row.metric), args.limit))
                print(f"{row.dataset}, {precision}: {'stored' if stored else 'evaluated'}", flush=True)
            except Exception as error:  # also of torch, such as too little memory: the other rows still run
                known = isinstance(error, PerceptionEncoderError)
                reason = str(error) if known else f"{type(error).__name__}: {one_line(error)}"
                print(f"{row.dataset}, {precision}: skipped: {reason}", flush=True)
    return compared


def _own(item: str) -> tuple[str, Path]:
    name, equals, path = item.partition("=")
    if not equals or not Path(path).exists():
        raise ConfigError(f"--data {item}: give NAME=PATH of a file or directory that exists")
    return name, Path(path)


def comparison_table(compared: Sequence[Mapping[str, Any]]) -> Table:
    """Return the table to print."""
    names = ("dataset", "metric", "precision", "n", "ours (95 % interval)", "published", "difference (95 % interval)")
    return names, [
        (
            row["dataset"],
            row["metric"],
            row["precision"],
            f"{row['n']:,}",
            _with_ends(row["ours"], row["interval"], row),
            "–" if row["published"] is None else _number(row["published"], row),
            _gap(row),
        )
        for row in compared
    ]


def _gap(row: Mapping[str, Any]) -> str:
    if row["difference"] is None:
        return row["not_comparable"] or "–"
    return _with_ends(row["difference"], row["difference_interval"], row, sign=True)


def _with_ends(value: float, ends: Sequence[float] | None, row: Mapping[str, Any], sign: bool = False) -> str:
    text = _number(value, row, sign)
    return f"{text} ({' to '.join(_number(end, row, sign) for end in ends)})" if ends else text


def _number(value: float, row: Mapping[str, Any], sign: bool = False) -> str:
    places = 3 if row["unit"] == "m" else 1
    return f"{value:+.{places}f}" if sign else f"{value:.{places}f}"


def page_rows(record: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    """Return the page's table: every published result, with ours in each precision where it was measured."""
    found = {(row["dataset"], row["model"], row["precision"]): row for row in record}
    header = (
        "dataset",
        "metric",
        "model",
        "published",
        *(f"measured, {name}" for name in PRECISIONS),
        "difference",
        "source",
    )
    rows: list[Sequence[str]] = [header]
    keys = [(row, model) for row in PUBLISHED for model in row.values]
    listed = {(row.dataset, model) for row, model in keys}
    extra = sorted({(row["dataset"], row["model"]) for row in record} - listed)
    for row, model in keys:
        measured = [found.get((row.dataset, model, name)) for name in PRECISIONS]
        first = next((item for item in measured if item), None)
        unit = {"unit": "m" if row.metric == "RMSE" else "%"}
        metric = row.metric + (f" (layer {row.arguments['layer'] + 1})" if "layer" in row.arguments else "")
        cells = ("–" if item is None else _with_ends(item["ours"], item["interval"], item) for item in measured)
        gap = "–" if first is None else _gap(first)
        rows.append(
            (
                row.dataset,
                metric,
                model.removeprefix("facebook/"),
                _number(row.values[model], unit),
                *cells,
                gap,
                row.source,
            )
        )
    for dataset, model in extra:
        measured = [found.get((dataset, model, name)) for name in PRECISIONS]
        first = next(item for item in measured if item)
        cells = ("–" if item is None else _with_ends(item["ours"], item["interval"], item) for item in measured)
        rows.append((dataset, first["metric"], model, "–", *cells, "–", "–"))
    return rows


def fill_page(compared: Sequence[Mapping[str, Any]], page: Path, record: Path) -> None:
    """Add results to the record of measured ones, and write the page's table from it."""
    from benchmarks.result_pages import with_table

    rows = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    known = {(row["dataset"], row["model"], row["precision"]): row for row in [*rows, *compared]}
    if compared:
        write_text(record, json.dumps([known[key] for key in sorted(known)], indent=1, ensure_ascii=False) + "\n")
    page.write_text(
        with_table(page.read_text(encoding="utf-8"), page_rows(list(known.values())), MARKERS), encoding="utf-8"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", help="name of a published model, or a path; without it, only the page")
    parser.add_argument("--tasks", default="", help="datasets, commas between; default: those with published results")
    parser.add_argument("--precision", default=",".join(PRECISIONS))
    parser.add_argument("--limit", type=int, help="maximum number of items of each dataset, at even intervals")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="a copy of your own")
    parser.add_argument("--out", type=Path, default=Path("published"), help="directory of the results")
    args = parser.parse_args(arguments)
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    """Evaluate, print the table, write the summary, and fill the page."""
    args = parse(arguments)
    if args.model is None:
        fill_page([], PAGE, RECORD)
        return
    try:
        compared = run(args)
    except PerceptionEncoderError as error:
        raise SystemExit(str(error)) from None
    names, rows = comparison_table(compared)
    widths = [max(len(row[column]) for row in (names, *rows)) for column in range(len(names))]
    for row in (names, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not compared:
        raise SystemExit("nothing could be evaluated; see the lines above")
    summary = {"model": args.model, "limit": args.limit, "rows": compared}
    write_text(args.out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    if args.limit is None:
        fill_page(compared, PAGE, RECORD)


if __name__ == "__main__":
    main()
