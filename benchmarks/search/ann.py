"""Nearest neighbours of many vectors: recall and time of each way, the time of building it, its memory and its size.

Unit vectors: random directions, which are the worst case (no clusters to skip), and clusters of uneven sizes, like
those of images; with 256 dimensions, as the built-in model's, and with the 1024 of PE-Core-B16 and L14. Each contender
runs in a process of its own, so that its peak memory is its own, and answers the same queries, one after the other,
with ten hits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.contenders import CONTENDERS, EXACT, HITS, OURS

ROWS, STEP = 1_000_000, 50_000
QUERIES, BRIEF_QUERIES = 200, 50


def random_vectors(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Directions without any order."""
    return _unit(generator.standard_normal((count, dimension), dtype=np.float32))


def clustered_vectors(generator: np.random.Generator, count: int, dimension: int) -> np.ndarray:
    """Two thousand clusters, few of them large, flat in themselves: 64 directions and some noise."""
    seeds = np.random.default_rng(0)
    centres = seeds.standard_normal((2000, dimension), dtype=np.float32)
    flat = seeds.standard_normal((64, dimension), dtype=np.float32) / 8
    sizes = 1 / np.arange(1, 2001) ** 0.8
    chosen = generator.choice(2000, count, p=sizes / sizes.sum())
    noise = 0.3 * generator.standard_normal((count, dimension), dtype=np.float32)
    within = generator.standard_normal((count, 64), dtype=np.float32) @ flat
    return _unit(0.8 * centres[chosen] + within + noise)


DATA = {
    "random": (random_vectors, 256),
    "clusters": (clustered_vectors, 256),
    "random, 1024 dimensions": (random_vectors, 1024),
    "clusters, 1024 dimensions": (clustered_vectors, 1024),
}
WIDE = 1024


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure(brief: bool) -> dict[str, Any]:
    """Every contender on all sets of vectors; with `brief`, only ours on those of 1024 dimensions."""
    count = BRIEF_QUERIES if brief else QUERIES
    results: dict[str, Any] = {}
    for name, (make, dimension) in DATA.items():
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            write_vectors(directory, make, dimension, count)
            chosen = (OURS, EXACT) if brief and dimension == WIDE else CONTENDERS
            results[name] = {contender: run(contender, directory) for contender in chosen}
    return {"rows": ROWS, "queries": count, "results": results}


def write_vectors(
    directory: Path, make: Callable[[np.random.Generator, int, int], np.ndarray], dimension: int, count: int
) -> None:
    """Write vectors, `count` queries and their best rows, some thousands at a time."""
    generator, queries = np.random.default_rng(1), make(np.random.default_rng(2), count, dimension)
    vectors = np.lib.format.open_memmap(directory / "vectors.npy", "w+", np.float32, (ROWS, dimension))
    scores, best = np.empty((count, 0), np.float32), np.empty((count, 0), np.int64)
    for start in range(0, ROWS, STEP):
        some = make(generator, STEP, dimension)
        vectors[start : start + STEP] = some
        scores = np.concatenate([scores, queries @ some.T], axis=1)
        best = np.concatenate([best, np.broadcast_to(np.arange(start, start + STEP), (count, STEP))], axis=1)
        kept = np.argpartition(-scores, HITS, axis=1)[:, :HITS]
        scores, best = (np.take_along_axis(values, kept, axis=1) for values in (scores, best))
    vectors.flush()
    np.save(directory / "queries.npy", queries)
    np.save(directory / "best.npy", best)


def run(contender: str, directory: Path) -> dict[str, Any]:
    """A contender's result, or why it was skipped."""
    command = [sys.executable, "-m", "benchmarks.search.contenders", contender, str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    if not result:
        result = {"skipped": f"it ended with status {done.returncode}"}
    print(f"{directory.name} {contender}: {result}", flush=True)
    return result
