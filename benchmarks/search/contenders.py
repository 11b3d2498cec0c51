"""Ways to nearest neighbours, each in a process of its own: `python -m benchmarks.search.contenders NAME DIR`."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.search.process import peak_mib
from perception_encoder.search.storage.store import compress_vectors, search_all_clusters
from perception_encoder.vectors import best_rows

DIMENSION, HITS = 256, 10
PROBED_ALL = 1 << 20
SECONDS, FEWEST = 20.0, 20  # slow settings are asked fewer queries than there are
Ask = Callable[[np.ndarray], Sequence[int]]
Built = tuple[list[tuple[str, Ask]], float, Path | None]
"""Settings and how each asks, seconds that building took, and where it lies on disk."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A way to search."""

    build: Callable[[Path], Built]
    slow: bool = False
    """It takes many minutes to build."""


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which a share of all lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _table(directory: Path) -> Any:
    import lancedb

    database = lancedb.connect(str(directory / "lance"))
    if (directory / "lance" / "rows.lance").exists():
        return database.open_table("rows")
    schema = pa.schema([("number", pa.int64()), ("vector", pa.list_(pa.float32(), DIMENSION))])

    def batches() -> Iterator[pa.RecordBatch]:
        vectors = np.load(directory / "vectors.npy", mmap_mode="r")
        for start in range(0, len(vectors), 50_000):
            some = np.ascontiguousarray(vectors[start : start + 50_000])
            column = pa.FixedSizeListArray.from_arrays(pa.array(some.ravel()), DIMENSION)
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
    return [("", ask)], 0.0, directory / "lance" / "rows.lance" / "data"


def ours(directory: Path) -> Built:
    """As a large index is searched."""
    search = search_all_clusters
    return _lance(directory, lambda table: compress_vectors(table, rows=0), [("", search)])


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
    return [(name, partial(_ask_lance, table, tune=tune)) for name, tune in settings], seconds, made


def exact(directory: Path) -> Built:
    """As a snapshot is searched."""
    vectors = np.load(directory / "vectors.npy", mmap_mode="r")
    return [("", lambda vector: best_rows(vector, vectors, HITS)[1].tolist())], 0.0, directory / "vectors.npy"


def faiss(factory: str, settings: Sequence[str]) -> Callable[[Path], Built]:
    """An index of faiss by its factory string, and settings by which it is asked, in faiss's own words."""

    def build(directory: Path) -> Built:
        import faiss

        vectors = np.load(directory / "vectors.npy")
        start = time.perf_counter()
        index = faiss.index_factory(DIMENSION, factory, faiss.METRIC_INNER_PRODUCT)
        if not index.is_trained:
            index.train(vectors[np.random.default_rng(0).permutation(len(vectors))[:100_000]])
        index.add(vectors)
        seconds = time.perf_counter() - start
        space = faiss.ParameterSpace()

        def ask(setting: str, vector: np.ndarray) -> list[int]:
            if setting:
                space.set_index_parameters(index, setting)
            return index.search(vector[None], HITS)[1][0].tolist()

        return [(setting, partial(ask, setting)) for setting in settings], seconds, None

    return build


def usearch(directory: Path) -> Built:
    """usearch's graph."""

    vectors = np.load(directory / "vectors.npy")
    index = Store(ndim=DIMENSION, metric="ip", dtype="f32", connectivity=32, expansion_add=200)
    start = time.perf_counter()
    index.add(np.arange(len(vectors)), vectors)
    seconds = time.perf_counter() - start

    def ask(expansion: int, vector: np.ndarray) -> list[int]:
        index.expansion_search = expansion
        return index.search(vector, HITS).keys.tolist()

    return [(f"expansion {value}", partial(ask, value)) for value in (128, 512, 2048, 8192)], seconds, None


_ALL = {"nprobes": PROBED_ALL}
_GRAPHS = [{"nprobes": PROBED_ALL, "ef": ef, "refine_factor": 2} for ef in (64, 256, 1024)]
CONTENDERS = {
    "ours: LanceDB IVF_RQ": Contender(build=ours),
    "LanceDB, no index": Contender(build=lance_scan),
    "our exact search in memory": Contender(build=exact),
    "LanceDB IVF_RQ, 4 bits": Contender(
        build=lance("IvfRq", {"num_bits": 4}, [{**_ALL, "refine_factor": factor} for factor in (2, 4, 8)])
    ),
    "LanceDB IVF_RQ, 1 bit": Contender(
        build=lance("IvfRq", {"num_bits": 1}, [{**_ALL, "refine_factor": factor} for factor in (16, 64, 256)])
    ),
    "LanceDB IVF_SQ": Contender(
        build=lance("IvfSq", {}, [{"nprobes": 16, "refine_factor": 2}, {**_ALL, "refine_factor": 2}])
    ),
    "LanceDB IVF_PQ, 64 × 8 bits": Contender(
        build=lance("IvfPq", {"num_sub_vectors": 64}, [{**_ALL, "refine_factor": factor} for factor in (8, 32)])
    ),
    "LanceDB IVF_FLAT": Contender(build=lance("IvfFlat", {}, [{"nprobes": 16}, _ALL])),
    "LanceDB IVF_HNSW_SQ": Contender(build=lance("HnswSq", {}, _GRAPHS), slow=True),
    "faiss, no index": Contender(build=faiss("Flat", [""])),
    "faiss IVF1024, flat": Contender(
        build=faiss("IVF1024,Flat", [f"nprobe={count}" for count in (16, 64, 256, 768, 1024)])
    ),
    "faiss IVF1024, 4-bit fast scan": Contender(
        build=faiss("IVF1024,PQ128x4fs,RFlat", [f"nprobe={count},k_factor_rf=64" for count in (16, 64, 256, 1024)])
    ),
    "faiss HNSW32": Contender(
        build=faiss("HNSW32", [f"efSearch={count}" for count in (64, 512, 2048, 8192)]), slow=True
    ),
    "usearch HNSW32": Contender(build=usearch, slow=True),
}


def main() -> None:
    """Build one contender, ask it all queries in all its settings, and print its results as JSON."""
    os.environ.setdefault("RUST_LOG", "error")
    warnings.simplefilter("ignore")
    name, directory = sys.argv[1], Path(sys.argv[2])
    try:
        settings, seconds, disk = CONTENDERS[name].build(directory)
    except ImportError as error:
        print(json.dumps({"skipped": f"{error.name} is not installed"}))
        return
    peak, queries, best = peak_mib(), np.load(directory / "queries.npy"), np.load(directory / "best.npy")
    measured = []
    for setting, ask in settings:
        for query in queries[:3]:
            ask(query)
        hit_count, times = 0, []
        for query, right in zip(queries, best, strict=True):
            if sum(times) > SECONDS * 1000 and len(times) >= FEWEST:
                break
            start = time.perf_counter()
            hits = ask(query)
            times.append((time.perf_counter() - start) * 1000)
            hit_count += len(set(hits) & set(right.tolist()))
        recall = hit_count / (HITS * len(times))
        measured.append({"setting": setting, "recall": recall, "median": median(times), "p95": quantile(times, 0.95)})
    size = None if disk is None else sum(path.stat().st_size for path in (disk, *disk.rglob("*")) if path.is_file())
    mebibytes = None if size is None else size / 2**20
    print(json.dumps({"seconds": seconds, "peak": peak, "disk": mebibytes, "settings": measured}))


if __name__ == "__main__":
    main()
