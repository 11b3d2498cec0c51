"""Evaluate published weights on public test sets and compare with the published results.

    python -m benchmarks.published PE-Core-B16-224 [--tasks imagenetv2,coco] [--limit 500] [--out published]

Weights and test sets are downloaded once, through huggingface_hub and datasets; `--data imagenet=PATH` gives a copy of
your own. It first states time and disk space. Each dataset is evaluated in float32, bfloat16 and int8; its result is a
JSON file below `--out`, as of `pe eval -o`, so that a rerun only does what is missing. What cannot be had is one line;
the other rows still run. A whole run of a model by name, without `--limit`, fills docs/published_results.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from perception_encoder._version import __version__
from perception_encoder.datasets.published import (
    COMPLETE,
    DATASETS,
    PublishedDataset,
    dataset_arguments,
    directory_of,
    download_dataset,
    list_files,
    reason_of,
)
from perception_encoder.errors import ConfigError, PerceptionEncoderError, one_line
from perception_encoder.evaluation.results import Result, Table, read_result, to_json
from perception_encoder.evaluation.statistics.scores import Score
from perception_encoder.files import file_state, write_text
from perception_encoder.models.registry import MODELS, OTHER_MODELS, ListedModel, ModelEntry, canonical_name

DOCS = Path(__file__).parent.parent / "docs"
PAGE, RECORD = DOCS / "published_results.md", DOCS / "published_results.json"
MARKERS = ("<!-- table: written by python -m benchmarks.published -->", "<!-- end of table -->")
PRECISIONS = ("float32", "bfloat16", "int8")
DENSE = ("tracking", "segmentation", "depth")
PLM = tuple(f"facebook/Perception-LM-{size}" for size in ("1B", "3B", "8B"))
TILES = 36
"""Maximum number of tiles of an image in the published results of language models."""
README, PAPER = "readme", "paper, section 5"
TEXT_TO_ITEM = "text to item, dual softmax R@1"
METRICS = {"classification": "top-1", "retrieval": TEXT_TO_ITEM}
"""By task, of datasets without a published result; of others, the first that the evaluation returns."""


class Published(NamedTuple):
    """Results of one metric, in percent or in its unit, by model; without values, a result that we add."""

    dataset: str
    metric: str
    source: str = ""
    values: Mapping[str, float] = {}
    arguments: Mapping[str, Any] = {}
    """Those of the evaluation, besides the dataset's."""
    other: str = ""
    """Why ours is not the same quantity, if it is not: no difference is given."""


def _of(dataset: str, *omitted: str) -> dict[str, float]:
    """Return the published results of encoders, smallest first."""
    entries = [entry for entry in reversed(MODELS.values()) if dataset in entry.published]
    return {entry.name: entry.published[dataset] for entry in entries if entry.name not in omitted}


def _plm(dataset: str, metric: str, *values: float, frames: int = 0, other: str = "") -> Published:
    arguments = {"frames": frames} if frames else {}
    return Published(dataset, metric, README, dict(zip(PLM, values, strict=True)), arguments, other)


_G, _SPATIAL_G = "PE-Core-G14-448", "PE-Spatial-G14-448"
_HIDDEN = "the split with public answers; published on test"
PUBLISHED = (
    *(
        Published(name, "top-1", README, _of(name))
        for name in ("imagenet", "imagenetv2", "imagenet-a", "objectnet", "kinetics400")
    ),
    Published("coco", TEXT_TO_ITEM, README, _of("coco")),
    Published("msrvtt", TEXT_TO_ITEM, README, _of("msrvtt")),
    Published("flickr30k", TEXT_TO_ITEM),
    Published("pvd-bench", TEXT_TO_ITEM),
    Published("davis2017", "J&F", PAPER, {_G: 56.8}, {"layer": 31}),
    Published("davis2017", "J&F", README, _of("davis2017")),
    Published("ade20k", "mIoU", PAPER, {_G: 41.5}, {"layer": 43}),
    Published("ade20k", "mIoU", README, _of("ade20k", _SPATIAL_G)),
    Published("ade20k", "mIoU", PAPER, {_SPATIAL_G: 49.3}, {"layer": 48}),
    Published("nyuv2", "RMSE", PAPER, {_G: 0.249}, {"layer": 38}),
    Published("nyuv2", "RMSE", PAPER, {_SPATIAL_G: 0.262}, {"layer": 45}),
    _plm("docvqa", "ANLS", 90.7, 93.8, 94.6, other=_HIDDEN),
    _plm("infovqa", "ANLS", 63.0, 74.6, 80.9, other=_HIDDEN),
    _plm("chartqa", "relaxed accuracy", 78.6, 84.3, 85.5),
    _plm("nocaps", "CIDEr", 124.2, 126.5, 129.9),
    _plm("flickr30k-captions", "CIDEr", 100.5, 98.0, 105.6),
    _plm("videomme", "accuracy", 49.2, 54.9, 58.3, frames=32),
    _plm("star", "accuracy", 83.7, 84.8, 84.9, frames=32),
    _plm("egoschema", "accuracy", 60.4, 66.9, 68.8, frames=32, other=_HIDDEN),
    _plm("perceptiontest", "accuracy", 72.7, 79.3, 82.7, frames=32, other=_HIDDEN),
)
"""Published results that a dataset of `DATASETS` can be compared with, and results that we add."""


def _entry(model: str) -> ModelEntry | ListedModel | None:
    name = canonical_name(model)
    return OTHER_MODELS.get(model) if name is None else MODELS[name]


def family(model: str) -> tuple[str, ...]:
    """Return the tasks of a model: of two towers, of a vision tower, or of a language model."""
    entry = _entry(model)
    if isinstance(entry, ListedModel) or (entry is None and "perception-lm" in model.lower()):
        return ("questions",)
    if entry is not None and entry.text is None:
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
            chosen.append(same[0] if same else Published(name, rows[0].metric if rows else METRICS.get(kind, "")))
    return chosen


def state(model: str, rows: Sequence[Published], own: Mapping[str, Path], limit: int | None, runs: int) -> list[str]:
    """Return lines that state the disk space and the time that a run will need."""
    entry, cache = _entry(model), directory_of(DATASETS["coco"]).parent
    total = float(entry.download_bytes or 0) if entry else 0.0
    lines, operations = [f"{model}: {total / 1e9:.1f} GB of weights"], 0.0
    for row in rows:
        dataset = DATASETS[row.dataset]
        items = min(dataset.items, limit or dataset.items)
        operations += runs * items * _operations(entry, dataset)
        size = "your copy" if row.dataset in own else "not downloaded for you, see below"
        if row.dataset not in own and not dataset.where:
            try:
                missing = download_bytes(dataset)
                total, size = total + missing, f"{missing / 1e9:.2f} GB" if missing else "downloaded"
            except Exception as error:  # of the hub's client: it is reported again, and fatal to this row, when it runs
                size = f"size unknown: {reason_of(error)}"
        lines.append(f"  {row.dataset}: {items:,} items, {size}, licence: {dataset.licence}")
    free = shutil.disk_usage(next(parent for parent in (cache, *cache.parents) if parent.exists())).free
    hours = f"about {operations / _speed() / 3600:.1f} hours on this machine" if operations else "unknown"
    return [
        *lines,
        f"To download: {total / 1e9:.1f} GB, datasets into {cache}; free: {free / 1e9:.1f} GB",
        "Datasets in archives take up to twice their size while they are unpacked",
        f"Time to compute: {hours}, without downloads and fitting heads",
    ]


def download_bytes(row: PublishedDataset) -> int:
    """Return the bytes to download, 0 for a dataset that is already there; DataError or an error of the client."""
    import fsspec

    if (directory_of(row) / COMPLETE).exists():
        return 0
    total = sum(list_files(row).values()) if row.repository else 0
    return total + sum(int(fsspec.filesystem("http").info(url).get("size") or 0) for url in row.urls)


def _operations(entry: ModelEntry | ListedModel | None, dataset: PublishedDataset) -> float:
    """Return the operations to evaluate an item once: twice the product of parameters and tokens."""
    if entry is None:
        return 0.0
    if isinstance(entry, ListedModel):
        return (entry.download_bytes or 0) * (1 + TILES) * 256  # 2 bytes a parameter; a thumbnail and the tiles
    side = entry.vision.image_size[0] if isinstance(entry.vision.image_size, tuple) else entry.vision.image_size
    images = (8 if dataset.videos else 1) * (1 if dataset.task in DENSE else 2)  # two transforms
    return 2.0 * entry.vision.parameters * (side // entry.vision.patch_size) ** 2 * images


@functools.cache
def _speed() -> float:
    """Return the operations per second of a float32 product."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    matrix = torch.ones(1024, 1024, device=device)
    float((matrix @ matrix)[0, 0])
    start = time.perf_counter()
    for _ in range(3):
        product = matrix @ matrix
    float(product[0, 0])
    return 3 * 2 * 1024**3 / (time.perf_counter() - start)


class Models:
    """A model in each precision, loaded when first needed; one at a time is in memory."""

    def __init__(self, name: str) -> None:
        self.name, self._key, self._model = name, ("", ""), None

    def get(self, task: str, precision: str) -> Any:
        """Return the model for a task in a precision; ConfigError if there is none."""
        key = "layers" if task in DENSE else "questions" if task == "questions" else "encoder", precision
        if key != self._key:
            self._model, self._key = None, ("", "")
            self._model, self._key = self._load(*key), key
        return self._model

    def _load(self, kind: str, precision: Any) -> Any:
        if kind == "encoder":
            from perception_encoder.inference.load import load

            return load(self.name, precision=precision)
        if kind == "questions":
            from perception_encoder.inference.model_spec import ModelSpec
            from perception_encoder.language_models.load import load_language_model

            return load_language_model(ModelSpec(self.name, precision=precision), tiles=TILES)
        if precision == "int8":
            raise ConfigError("int8 executes encoders, not the layers below dense tasks")
        import torch

        from perception_encoder.inference.load import load_layers

        return load_layers(self.name, dtype=getattr(torch, precision))


def evaluate_row(
    row: Published, models: Models, precision: str, root: Path, out: Path, limit: int | None
) -> tuple[Result, bool]:
    """Return the result of a dataset in a precision, and whether it was there already."""
    from perception_encoder.evaluations import evaluate

    dataset = DATASETS[row.dataset]
    path = out / Path(models.name).name / precision / f"{row.dataset}.json"
    settings = {
        "limit": str(limit or ""),
        "data": str(root.resolve()),
        "model": file_state(models.name),
        "arguments": json.dumps({**dataset.arguments, **row.arguments}, sort_keys=True, default=str),
        "perception-encoder": __version__,
    }
    if path.exists():
        found = read_result(path)
        if all(found.about.get(name) == value for name, value in settings.items()):
            return found, True
    model = models.get(dataset.task, precision)
    path.parent.mkdir(parents=True, exist_ok=True)
    arguments = {**dataset_arguments(dataset, root), **row.arguments, "items": limit}
    if dataset.task == "questions":
        arguments["records"] = path.with_suffix(".jsonl")
    result = evaluate(dataset.task, model, **arguments)
    result = replace(result, about={**result.about, **settings})
    write_text(path, to_json(result))
    return result, False


def best_metric(result: Result, name: str) -> Score:
    """Return a score of a result, of the better transform, as the paper reports it; ConfigError if it has none."""
    found = [score for score in result.scores if not name or score.name == name]
    if not found:
        names = ", ".join(sorted({score.name for score in result.scores}))
        raise ConfigError(f"{result.scores[0].task} has no metric {name!r}, but {names}")
    if not name:
        return found[0]
    return min(found, key=lambda item: item.value if item.lower_is_better else -item.value)


def compare(row: Published, model: str, precision: str, metric: Score, limit: int | None) -> dict[str, Any]:
    """Return ours, the published result, their difference, and its interval, which is that of ours, shifted."""
    percent = 100.0 if metric.unit == "%" or metric.name == "CIDEr" else 1.0
    ours, published = metric.value * percent, row.values.get(canonical_name(model) or model)
    depends = DATASETS[row.dataset].task in ("retrieval", "segmentation", "depth")
    other = row.other or ("another number of items" if limit and depends else "")
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
            roots[row.dataset] = own.get(row.dataset) or download_dataset(DATASETS[row.dataset])
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


def page_tables(record: Sequence[Mapping[str, Any]]) -> dict[str, list[Sequence[str]]]:
    """Return the page's tables: published results, with a column for each model of a family; then ours, if any."""
    groups: dict[tuple[str, ...], list[Published]] = {}
    for row in PUBLISHED:
        groups.setdefault(tuple(row.values), []).append(row)
    wide = {models: rows for models, rows in groups.items() if models and len(rows) > 1 < len(models)}
    tables: dict[str, list[Sequence[str]]] = {}
    for models, rows in wide.items():
        names = [model.removeprefix("facebook/") for model in models]
        title = "-".join(names[0].split("-")[:2])
        header = ("dataset", "metric", *(name.removeprefix(f"{title}-") for name in names))
        tables[title] = [
            (*header, "source"),
            *((row.dataset, _metric(row), *(_value(row, model) for model in models), row.source) for row in rows),
        ]
    rest = [row for row in PUBLISHED if tuple(row.values) not in wide]
    if lines := [
        (row.dataset, _metric(row), name, _value(row, name), row.source) for row in rest for name in row.values
    ]:
        tables["Dense tasks"] = [("dataset", "metric", "model", "published", "source"), *lines]
    return tables | ({"Measured": page_rows(record)} if record else {})


def _metric(row: Published) -> str:
    return row.metric + (f" (layer {row.arguments['layer']})" if "layer" in row.arguments else "")


def _value(row: Published, model: str) -> str:
    return _number(row.values[model], {"unit": "m" if row.metric == "RMSE" else "%"})


def page_rows(record: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    """Return the table of our results in each precision, beside the published ones."""
    found = {(row["dataset"], row["model"], row["precision"]): row for row in record}
    measured_by = (f"measured, {name}" for name in PRECISIONS)
    rows: list[Sequence[str]] = [("dataset", "metric", "model", "published", *measured_by, "difference", "source")]
    lines: list[tuple[Published, str, float | None]] = [
        (row, model, value) for row in PUBLISHED for model, value in row.values.items()
    ]
    listed = {(row.dataset, model) for row, model, _ in lines}
    added = {(row["dataset"], row["model"]): row["metric"] for row in record}
    for dataset, model in sorted(added.keys() - listed):
        lines.append((Published(dataset, added[dataset, model], "–"), model, None))
    for row, model, value in lines:
        if (row.dataset, model) not in added:
            continue
        measured = [found.get((row.dataset, model, name)) for name in PRECISIONS]
        first = next((item for item in measured if item), None)
        rows.append(
            (
                row.dataset,
                _metric(row),
                model.removeprefix("facebook/"),
                "–" if value is None else _value(row, model),
                *("–" if item is None else _with_ends(item["ours"], item["interval"], item) for item in measured),
                "–" if first is None else _gap(first),
                row.source,
            )
        )
    return rows


def fill_page(compared: Sequence[Mapping[str, Any]], page: Path, record: Path) -> None:
    """Add results to the record of measured ones, and write the page's table from it."""
    from benchmarks.result_pages import with_table

    rows = json.loads(record.read_text(encoding="utf-8")) if record.exists() else []
    known = {(row["dataset"], row["model"], row["precision"]): row for row in [*rows, *compared]}
    if compared:
        write_text(record, json.dumps([known[key] for key in sorted(known)], indent=1, ensure_ascii=False) + "\n")
    page.write_text(
        with_table(page.read_text(encoding="utf-8"), page_tables(list(known.values())), MARKERS), encoding="utf-8"
    )


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model", nargs="?", help="name of a published model, or a path; without it, only the page")
    parser.add_argument("--tasks", default="", help="datasets, commas between; default: those with published results")
    parser.add_argument("--precision", default=",".join(PRECISIONS), help="commas between; default: %(default)s")
    parser.add_argument("--limit", type=int, help="maximum number of items of each dataset, at even intervals")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=PATH", help="your copy of a dataset")
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
    write_text(
        args.out / Path(args.model).name / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n"
    )
    if args.limit is None and _entry(args.model) is not None:
        fill_page(compared, PAGE, RECORD)


if __name__ == "__main__":
    main()
