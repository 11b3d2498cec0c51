"""Ways to nearest neighbours, each in a process of its own: `python -m benchmarks.search.contenders NAME DIR`."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.search.process import peak_mib
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.vectors import best_rows

HITS = 10
PROBED_ALL = 1 << 20
SECONDS, FEWEST = 20.0, 20  # slow settings are asked fewer queries than there are
Ask = Callable[[np.ndarray], Sequence[int]]
Built = tuple[list[tuple[str, Ask]], float, Sequence[Path]]
"""Settings and how each asks, seconds that building took, and what of it lies on disk."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _table(directory: Path) -> Any:
    import lancedb

    database = lancedb.connect(str(directory / "lance"))
    if (directory / "lance" / "rows.lance").exists():
        return database.open_table("rows")
    vectors = np.load(directory / "vectors.npy", mmap_mode="r")
    schema = pa.schema([("number", pa.int64()), ("vector", pa.list_(pa.float32(), vectors.shape[1]))])

    def batches() -> Iterator[pa.RecordBatch]:
        for start, some in _pieces(vectors):
            column = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), vectors.shape[1])
            yield pa.record_batch([pa.array(np.arange(start, start + len(some))), column], schema=schema)

    table = database.create_table("rows", pa.RecordBatchReader.from_batches(schema, batches()))
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    return table


def _ask_lance(table: Any, vector: np.ndarray, tune: Callable[[Any], Any]) -> list[int]:
    query = tune(table.search(vector, vector_column_name="vector"))
    return query.limit(HITS).select(["number", "_distance"]).to_arrow()["number"].to_pylist()


def lance_scan(directory: Path) -> Built:
    """LanceDB compares every row."""
    table = _table(directory)
    ask = partial(_ask_lance, table, tune=lambda query: query.distance_type("dot").bypass_vector_index())
    return [("", ask)], 0.0, [directory / "lance" / "rows.lance" / "data"]


def ours(directory: Path) -> Built:
    """As an index is searched: hits are rows with all columns but the thumbnail. Another process builds it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        seconds = pool.submit(_build, directory).result()
    store = IndexStore.open(directory / "ours")

    def ask(vector: np.ndarray, where: str | None = None) -> list[int]:
        return [int(row.id, 16) for _, row in store.nearest(vector, HITS, where)]

    place = directory / "ours" / ".pe-index"
    return [("", ask)], seconds, list(place.iterdir())


def _build(directory: Path) -> float:
    """Store the vectors; return the seconds that compressing them took."""
    vectors = np.load(directory / "vectors.npy", mmap_mode="r")
    home = directory / "ours"
    home.mkdir()
    settings = {"source": "none", "model": "none", "weight_hash": "none", "dimension": vectors.shape[1], "every": 1.0}
    store = IndexWriter.create(home, settings)
    store.begin()
    for first, some in _pieces(vectors):
        store.replace([], [_row(number, vector) for number, vector in enumerate(some, first)])
    start = time.perf_counter()
    store.finish()
    return time.perf_counter() - start


def _row(number: int, vector: np.ndarray) -> IndexRow:
    name = f"{number:012x}"
    return IndexRow(
        id=name,
        path=f"{number // 1000:04d}/{number:07d}.jpg",
        kind="image" if number % 10 else "video",
        date=f"{2005 + number % 20}-01-01T00:00:00",
        digest=name,
        width=number,
        height=number,
        size=number,
        modified=number,
        vector=vector,
    )


def _pieces(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), 50_000):
        yield start, np.ascontiguousarray(vectors[start : start + 50_000])


def turbovec(directory: Path) -> Built:
    """The library that ours uses, with each query compared with all bits, and its own scores."""
    from turbovec import TurboQuantIndex

    vectors = np.load(directory / "vectors.npy", mmap_mode="r")
    start_time = time.perf_counter()
    codes = TurboQuantIndex(dim=vectors.shape[1], bit_width=4)
    for _, some in _pieces(vectors):
        codes.add(some)
    seconds = time.perf_counter() - start_time
    return [("", lambda vector: codes.search(vector[None], HITS)[1][0].tolist())], seconds, []


def lance(kind: str, options: dict[str, Any], settings: list[dict[str, int]]) -> Callable[[Path], Built]:
    """A contender of LanceDB's: a kind of index, and settings by which it is asked."""

    def keep(table: Any) -> None:
        from lancedb import index

        table.create_index("vector", config=getattr(index, kind)(distance_type="cosine", **options))

    def tune(setting: dict[str, int], query: Any) -> Any:
        query = query.distance_type("cosine")
        for name, value in setting.items():
            query = getattr(query, name)(value)
        return query

    named = [
        (", ".join(f"{name} {'all' if value == PROBED_ALL else value}" for name, value in setting.items()), setting)
        for setting in settings
    ]
    return lambda directory: _lance(directory, keep, [(name, partial(tune, setting)) for name, setting in named])


def _lance(directory: Path, keep: Callable[[Any], object], settings: list[tuple[str, Callable[[Any], Any]]]) -> Built:
    table = _table(directory)
    for index in table.list_indices():
        table.drop_index(index.name)
    indices = directory / "lance" / "rows.lance" / "_indices"
    before = set(indices.iterdir()) if indices.exists() else set()
    start = time.perf_counter()
    keep(table)
    seconds = time.perf_counter() - start
    (made,) = set(indices.iterdir()) - before
    return [(name, partial(_ask_lance, table, tune=tune)) for name, tune in settings], seconds, [made]


def exact(directory: Path) -> Built:
    """As a smaller index is searched."""
    vectors = np.load(directory / "vectors.npy", mmap_mode="r")
    return [("", lambda vector: best_rows(vector, vectors, HITS)[1].tolist())], 0.0, [directory / "vectors.npy"]


def faiss(factory: str, settings: Sequence[str]) -> Callable[[Path], Built]:
    """An index of faiss by its factory string, and settings by which it is asked, in faiss's own words."""

    def build(directory: Path) -> Built:
        import faiss

        vectors = np.load(directory / "vectors.npy")
        start = time.perf_counter()
        index = faiss.index_factory(vectors.shape[1], factory.format(vectors.shape[1] // 2), faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[:100_000]])
        index.add(vectors)
        seconds = time.perf_counter() - start
        space = faiss.ParameterSpace()

        def ask(setting: str, vector: np.ndarray) -> list[int]:
            if setting:
                space.set_index_parameters(index, setting)
            return index.search(vector[None], HITS)[1][0].tolist()

        return [(setting, partial(ask, setting)) for setting in settings], seconds, []

    return build


_ALL = {"nprobes": PROBED_ALL}
OURS, EXACT = "ours: TurboQuant, 4 bits", "our exact search in memory"
CONTENDERS = {
    OURS: ours,
    EXACT: exact,
    "turbovec alone, 4 bits": turbovec,
    "LanceDB, no index": lance_scan,
    "LanceDB IVF_RQ, 5 bits": lance("IvfRq", {"num_bits": 5}, [{**_ALL, "refine_factor": 3}]),
    "LanceDB IVF_SQ": lance("IvfSq", {}, [{**_ALL, "refine_factor": 2}]),
    "faiss, no index": faiss("Flat", [""]),
    "faiss IVF1024, 4-bit fast scan": faiss(
        "IVF1024,PQ{}x4fs,RFlat", [f"nprobe={count},k_factor_rf=64" for count in (64, 256, 1024)]
    ),
}
"""Ways to search. Graphs (HNSW of faiss, usearch and LanceDB) take over ten minutes to build and find less."""


def main() -> None:
    """Build one contender, ask it all queries in all its settings, and print its results as JSON."""
    os.environ.setdefault("RUST_LOG", "error")
    warnings.simplefilter("ignore")
    name, directory = sys.argv[1], Path(sys.argv[2])
    try:
        settings, seconds, disk = CONTENDERS[name](directory)
    except ImportError as error:
        print(json.dumps({"skipped": f"{error.name} is not installed"}))
        return
    queries, best = np.load(directory / "queries.npy"), np.load(directory / "best.npy")
    measured = []
    for setting, ask in settings:
        for query in queries[:3]:
            ask(query)
        hit_count, times, before = 0, [], time.process_time()
        for query, right in zip(queries, best, strict=True):
            if sum(times) > SECONDS * 1000 and len(times) >= FEWEST:
                break
            start = time.perf_counter()
            hits = ask(query)
            times.append((time.perf_counter() - start) * 1000)
            hit_count += len(set(hits) & set(right.tolist()))
        recall = hit_count / (HITS * len(times))
        cpu = (time.process_time() - before) * 1000 / len(times)
        row = {"setting": setting, "recall": recall, "median": median(times), "p95": quantile(times, 0.95), "cpu": cpu}
        measured.append(row)
    size = sum(path.stat().st_size for root in disk for path in (root, *root.rglob("*")) if path.is_file())
    mebibytes = size / 2**20 if disk else None
    print(json.dumps({"seconds": seconds, "peak": peak_mib(), "disk": mebibytes, "settings": measured}))


if __name__ == "__main__":
    main()
