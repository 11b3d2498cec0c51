"""Approximate search of a large index: LanceDB keeps every vector once more, in few bits, and compares the best whole.

The bits are RaBitQ's. A query reads those of all rows, cluster after cluster, whether or not the vectors lie in
clusters, so that what it finds does not depend on how they lie; then it reads the vectors of the best, so that
similarities are exact. Rows that came since the last `Table.optimize`, which brings this up to date, are compared with
the query one by one.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lancedb.table import Table

logger = logging.getLogger(__name__)

ROWS = 25_000
"""From here on the bits are kept: comparing so many vectors one by one takes over 20 ms (docs/results/search.md)."""
_BITS = 5  # of a number
_REFINED = 3  # vectors that are read for each hit
_ALL = 1 << 20  # clusters, more than there are


def keep(table: Table, rows: int | None = None) -> bool:
    """Build the bits of a table of at least `rows` rows (by default `ROWS`) that has none; whether it has them then.

    Where that fails, it is logged: searches then compare every row.
    """
    if any(index.columns == ["vector"] for index in table.list_indices()):
        return True
    if table.count_rows() < (ROWS if rows is None else rows):
        return False
    try:
        from lancedb.index import IvfRq

        table.create_index("vector", config=IvfRq(distance_type="cosine", num_bits=_BITS))
    except (ImportError, OSError, ValueError, RuntimeError) as error:  # older ones have no such index
        logger.warning("no approximate search, every row is compared instead: %s", " ".join(str(error).split())[:200])
        return False
    return True


def widen(query: Any) -> Any:
    """A LanceDB query that looks at all bits and compares the best exactly; without bits it compares every row."""
    return query.distance_type("cosine").nprobes(_ALL).refine_factor(_REFINED)
