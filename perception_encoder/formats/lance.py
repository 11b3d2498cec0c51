"""Connect to LanceDB, imported on first use."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from perception_encoder.errors import MissingExtraError, OutputError, one_line
from perception_encoder.preprocess.source import escape_name

if TYPE_CHECKING:
    from lancedb.db import DBConnection


@contextmanager
def without_panics() -> Iterator[None]:
    """Turn LanceDB's panics about damaged files, some of which are not Exceptions, into RuntimeErrors."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ not in ("PanicException", "RustPanic"):
            raise
        raise RuntimeError(one_line(error)) from None


def connect(directory: Path) -> DBConnection:
    """Open a directory of tables; MissingExtraError without LanceDB, OutputError if its path is not UTF-8."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it would warn of harmless conditions
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its dependencies
            import lancedb
    except ImportError:
        raise MissingExtraError("lancedb", "search") from None
    try:
        return lancedb.connect(str(directory.absolute()).encode().decode())  # absolute: "a:b" would be taken for a URL
    except UnicodeEncodeError:
        raise OutputError(f"{escape_name(directory)}: a LanceDB table needs a path in UTF-8") from None
