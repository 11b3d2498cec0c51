"""Approximate search of a large index: LanceDB compares compressed vectors, then the best ones exactly.

The compression is RaBitQ, a few bits a number. A query reads the bits of all rows, in all clusters, so that the hits do
not depend on the clustering; then it reads the vectors of the best, so that similarities are exact. Rows added since
the last `Table.optimize`, which updates the bits, are compared one by one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from perception_encoder.errors import one_line

if TYPE_CHECKING:
    from lancedb.table import Table

logger = logging.getLogger(__name__)

ROWS = 25_000
"""From here on vectors are compressed: comparing so many one by one takes over 20 ms (docs/results/search.md)."""
_BITS = 5  # of a number
_REFINED = 3  # vectors that are read for each hit
_ALL = 1 << 20  # clusters, more than there are


def compress_vectors(table: Table, rows: int | None = None) -> bool:
    """Compress the vectors of a table of at least `rows` rows (by default `ROWS`); return whether they are compressed.

    A failure is logged: searches then compare every row.
    """
    if any(index.columns == ["vector"] for index in table.list_indices()):
        return True
    if table.count_rows() < (ROWS if rows is None else rows):
        return False
    try:
        from lancedb.index import IvfRq

        table.create_index("vector", config=IvfRq(distance_type="cosine", num_bits=_BITS))
    except (ImportError, OSError, ValueError, RuntimeError) as error:  # older versions lack this index
        logger.warning("no approximate search, every row is compared instead: %s", one_line(error))
        return False
    return True


def search_all_clusters(query: Any) -> Any:
    """Set a LanceDB query to read all bits and to compare the best rows exactly."""
    return query.distance_type("cosine").nprobes(_ALL).refine_factor(_REFINED)
