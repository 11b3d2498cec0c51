"""Check regularly whether a directory's files differ from its index."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from perception_encoder.errors import PerceptionEncoderError, one_line
from perception_encoder.search.index.changes import find_changes
from perception_encoder.search.index.index import Index

logger = logging.getLogger(__name__)

_SHARE = 0.05  # of the time, at most, is spent on listing


class Rescan:
    """Finds changes that no update has tried yet; a file that could not be read is tried again when it changes.

    `refresh` makes the index read later commits.
    """

    def __init__(self, index: Index, refresh: Callable[[], object]) -> None:
        self._index, self._refresh = index, refresh
        self._tried: set[tuple[str, int, int]] = set()

    def run(self, seconds: float, update: Callable[[], bool]) -> None:
        """Call `update` at the start and after changes, for ever; call it again if it returns False."""
        first = True
        while True:
            began = time.monotonic()
            try:
                candidates, changed = self.compare()
                spent = time.monotonic() - began
                if (changed or first) and update():
                    self._tried, first = candidates, False
            except (PerceptionEncoderError, OSError) as error:  # for example a disk that is not mounted
                logger.info("the directory cannot be listed: %s", one_line(error))
                spent = time.monotonic() - began
            time.sleep(max(seconds, spent / _SHARE))

    def compare(self) -> tuple[set[tuple[str, int, int]], bool]:
        """Return the files to read (path, size, time), and whether any is new since the last update, or any is gone."""
        self._refresh()
        changes = find_changes(self._index.root, self._index.files())
        candidates = {(file.path, file.size, file.modified) for file in changes.candidates}
        return candidates, bool(candidates - self._tried or changes.gone)
