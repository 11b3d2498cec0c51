"""Read the words in many images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from perception_encoder.errors import DataError, InputError
from perception_encoder.formats.listing import list_items
from perception_encoder.progress import Track, untracked
from perception_encoder.words.reader import TextLine, WordReader, read_words


def read_all_words(
    paths: Sequence[str | Path], left_out: Counter[str], excluded: Iterable[str] = (), progress: Track = untracked
) -> tuple[dict[str, list[TextLine]], list[InputError]]:
    """Return the lines of each image, by path, and the images that cannot be read.

    `left_out`, `excluded`: see `list_items`. Raises DataError if there are no images.
    """
    items = list(list_items(paths, left_out, tuple(excluded)))
    if not items:
        raise DataError(f"no images in {', '.join(map(str, paths))}")
    WordReader.shared()  # before the bar
    found: dict[str, list[TextLine]] = {}
    failures: list[InputError] = []
    for item in progress(items, "reading words", len(items)):
        try:
            found[item.path] = read_words(item.media())
        except InputError as error:
            failures.append(error)
    return found, failures
