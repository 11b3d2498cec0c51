"""What words add to a query's time and an index's size: `python -m benchmarks.search.words [ROWS] [-o JSON]`.

Random unit vectors with 512 numbers; 20 words an image, of frequencies as in texts, one letter in 20 misread.
"""

from __future__ import annotations

import argparse
import json
import random
import string
import tempfile
import time
from itertools import accumulate
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from perception_encoder.search.lookup import WordQuery, query_words
from perception_encoder.search.ranking import best_hits
from perception_encoder.search.storage.database import IndexRow
from perception_encoder.search.storage.store import IndexStore
from perception_encoder.search.storage.words import Unread
from perception_encoder.search.storage.writer import IndexWriter
from perception_encoder.words.reader import TextLine

WORDS, VOCABULARY, LINES, WRONG, DIMENSION = 20, 30_000, 5, 0.05, 512
QUERIES, AT_ONCE = 200, 1000
BOX = (0.1234, 0.2345, 0.5678, 0.2347, 0.5677, 0.2986, 0.1233, 0.2983)  # as many digits as are stored


def misread(word: str, generator: random.Random) -> str:
    """Return a word with about one letter in 20 replaced."""
    return "".join(generator.choice(string.ascii_lowercase) if generator.random() < WRONG else c for c in word)


def build(home: Path, rows: int) -> tuple[list[list[str]], dict[str, float]]:
    """Build an index, first without words; return the words of each row, and sizes and times."""
    generator, numbers = random.Random(0), np.random.default_rng(0)
    letters = string.ascii_lowercase
    vocabulary = ["".join(generator.choices(letters, k=generator.randint(2, 11))) for _ in range(VOCABULARY)]
    weights = list(accumulate(1 / (rank + 10) for rank in range(VOCABULARY)))
    settings = {"source": "none", "model": "none", "weight_hash": "none", "dimension": DIMENSION, "every": 1.0}
    store = IndexWriter.create(home, settings)
    store.begin()
    start = time.perf_counter()
    for first in range(0, rows, AT_ONCE):
        vectors = numbers.standard_normal((AT_ONCE, DIMENSION)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        store.replace([], [_row(first + number, vector) for number, vector in enumerate(vectors)])
    store.finish()
    figures = {"rows_seconds": time.perf_counter() - start, "megabytes": _size(home)}
    texts = [generator.choices(vocabulary, cum_weights=weights, k=WORDS) for _ in range(rows)]
    unread, start = store.unread(), time.perf_counter()
    store.begin(complete=True)
    for first in range(0, rows, AT_ONCE):
        store.write_words([(image, _lines(texts, image, generator)) for image in unread[first : first + AT_ONCE]])
    store.finish()
    return texts, {
        **figures,
        "words_seconds": time.perf_counter() - start,
        "megabytes_with_words": _size(home),
    }


def _row(number: int, vector: np.ndarray) -> IndexRow:
    name = f"{number:012x}"
    values: dict[str, Any] = dict.fromkeys(("width", "height", "size", "modified"), number)
    path, date = f"{number // 1000:04d}/{number:07d}.jpg", f"{2005 + number % 20}-01-01T00:00:00"
    return IndexRow(id=name, path=path, kind="image", date=date, digest=name, vector=vector, **values)


def _lines(texts: list[list[str]], image: Unread, generator: random.Random) -> list[TextLine]:
    words = [misread(word, generator) for word in texts[int(image.digest, 16)]]
    per_line = WORDS // LINES
    parts = (" ".join(words[start : start + per_line]) for start in range(0, WORDS, per_line))
    return [TextLine(text=part, confidence=0.9, box=BOX) for part in parts]


def _size(home: Path) -> float:
    return sum(path.stat().st_size for path in (home / ".pe-index").iterdir()) / 1e6


def ask(home: Path, texts: list[list[str]]) -> dict[str, float]:
    """Return median and 95th percentile of the milliseconds of CPU, ways asked in turn, and the recall by both."""
    store, generator, numbers = IndexStore.open(home), random.Random(1), np.random.default_rng(1)
    times: dict[str, list[float]] = {"meaning": [], "both": [], "no_match": []}
    first = top = 0
    for _ in range(QUERIES):
        row = generator.randrange(len(texts))
        words = generator.sample(texts[row], 2)
        vector = numbers.standard_normal(DIMENSION).astype(np.float32)
        vector /= np.linalg.norm(vector)
        asked = {"meaning": None, "both": " ".join(words), "no_match": "zzzzqqqq xxxxjjjj"}
        for name, text in asked.items():
            query = WordQuery(words=query_words(text)) if text else None
            start = time.process_time()
            hits = best_hits([store], vector, 10, words=query)
            times[name].append(1000 * (time.process_time() - start))
            if name == "both":
                found = [int(hit.id, 16) for hit in hits]
                first, top = first + (found[0] == row), top + (row in found)
    figures = {f"{name}_ms": median(values) for name, values in times.items()}
    figures |= {f"{name}_p95_ms": sorted(values)[int(0.95 * QUERIES)] for name, values in times.items()}
    return {**figures, "first": first / QUERIES, "top_10": top / QUERIES}


def main() -> None:
    """Run the benchmark and print its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="?", type=int, default=100_000)
    parser.add_argument("-o", "--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        texts, built = build(Path(home), arguments.rows)
        figures = {"rows": arguments.rows, **built, **ask(Path(home), texts)}
    text = json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
