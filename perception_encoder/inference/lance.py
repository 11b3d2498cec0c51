"""LanceDB, imported when it is needed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.errors import MissingExtraError

if TYPE_CHECKING:
    from lancedb.db import DBConnection


def connect(folder: Path) -> DBConnection:
    """The tables of a folder, NAME in NAME.lance; MissingExtraError without LanceDB."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies
            import lancedb
    except ImportError:
        raise MissingExtraError("lancedb", "search") from None
    return lancedb.connect(str(folder))
