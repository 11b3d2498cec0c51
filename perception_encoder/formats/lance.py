"""LanceDB, imported when it is needed."""

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
    """Turn a panic of LanceDB over damaged files, one kind of which is not an Exception, into a RuntimeError."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ not in ("PanicException", "RustPanic"):
            raise
        raise RuntimeError(one_line(error)) from None


def connect(directory: Path) -> DBConnection:
    """The tables of a directory, NAME in NAME.lance; MissingExtraError without LanceDB, OutputError for odd names."""
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
