"""Read the words in many images and moments of videos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from perception_encoder.errors import DataError, InputError, detached
from perception_encoder.formats.listing import Item, list_items
from perception_encoder.preprocess.budget import map_ahead
from perception_encoder.progress import Track, untracked
from perception_encoder.words.reader import TextLine, WordReader, read_words

K = TypeVar("K")
_THREADS = 2  # one reads words, on all cores, while the other decodes


def read_each(items: Iterable[tuple[K, Item]]) -> Iterator[tuple[K, list[TextLine] | InputError]]:
    """Yield the lines of each image, or of the frame at a moment, in order; or why they cannot be read."""

    def read(job: tuple[K, Item]) -> tuple[K, list[TextLine] | InputError]:
        key, item = job
        try:
            return key, read_words(item.media())
        except InputError as error:
            return key, detached(error)

    with ThreadPoolExecutor(_THREADS, "words") as pool:
        yield from map_ahead(read, items, pool, _THREADS)


def read_all_words(
    paths: Sequence[str | Path], left_out: Counter[str], excluded: Sequence[str] = (), progress: Track = untracked
) -> tuple[dict[str, list[TextLine]], list[InputError]]:
    """Return the lines of each image or moment ("clip.mp4@12s"), by path, and the images that cannot be read.

    `left_out`, `excluded`: see `list_items`. Raises DataError if there are no images.
    """
    items = list(list_items(paths, left_out, excluded))
    if not items:
        raise DataError(f"no images in {', '.join(map(str, paths))}")
    WordReader.shared()  # before the bar
    found, failures = dict[str, list[TextLine]](), list[InputError]()
    named = ((item.path if item.start is None else f"{item.path}@{item.start:g}s", item) for item in items)
    for path, lines in progress(read_each(named), "reading words", len(items)):
        if isinstance(lines, InputError):
            failures.append(lines)
        else:
            found[path] = lines
    return found, failures
