"""Nearest neighbours of many vectors: recall and time of each way, the time of building it, its memory and its size.

Two sets of unit vectors of 256 dimensions: random directions, which are the worst case (no clusters to skip), and
clusters of uneven sizes, like those of images. Each contender runs in a process of its own, so that its peak memory
is its own, and answers the same queries, one after the other, with ten hits.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search.contenders import CONTENDERS, DIMENSION, HITS

ROWS, QUERIES, BRIEF_QUERIES = 1_000_000, 200, 50


def random_vectors(generator: np.random.Generator, count: int) -> np.ndarray:
    """Directions without any order."""
    return _unit(generator.standard_normal((count, DIMENSION), dtype=np.float32))


def clustered_vectors(generator: np.random.Generator, count: int) -> np.ndarray:
    """Two thousand clusters, few of them large, flat in themselves: 64 directions and some noise."""
    seeds = np.random.default_rng(0)
    centres = seeds.standard_normal((2000, DIMENSION), dtype=np.float32)
    flat = seeds.standard_normal((64, DIMENSION), dtype=np.float32) / 8
    sizes = 1 / np.arange(1, 2001) ** 0.8
    chosen = generator.choice(2000, count, p=sizes / sizes.sum())
    noise = 0.3 * generator.standard_normal((count, DIMENSION), dtype=np.float32)
    within = generator.standard_normal((count, 64), dtype=np.float32) @ flat
    return _unit(0.8 * centres[chosen] + within + noise)


DATA = {"random": random_vectors, "clusters": clustered_vectors}


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def measure(brief: bool) -> dict[str, Any]:
    """Every contender on both sets of vectors."""
    count = BRIEF_QUERIES if brief else QUERIES
    results: dict[str, Any] = {}
    for name, make in DATA.items():
        with tempfile.TemporaryDirectory() as temporary:
            directory = Path(temporary)
            vectors, queries = make(np.random.default_rng(1), ROWS), make(np.random.default_rng(2), count)
            scores = queries @ vectors.T
            best = np.argpartition(-scores, HITS, axis=1)[:, :HITS]
            for file, array in (("vectors", vectors), ("queries", queries), ("best", best)):
                np.save(directory / f"{file}.npy", array)
            del vectors, scores
            results[name] = {contender: run(contender, directory, brief) for contender in CONTENDERS}
    return {"rows": ROWS, "queries": count, "results": results}


def run(contender: str, directory: Path, brief: bool) -> dict[str, Any]:
    """A contender's result, or why it was skipped."""
    entry = CONTENDERS[contender]
    if brief and entry.slow:
        return {"skipped": "it is slow to build"}
    command = [sys.executable, "-m", "benchmarks.search.contenders", contender, str(directory)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {}
    if not result:
        result = {"skipped": f"it ended with status {done.returncode}"}
    print(f"{directory.name} {contender}: {result}", flush=True)
    return result
