"""Cache a mask teacher's tokens on disk, for a fixed number of augmentations of each image.

They are stored in an SQLite file, compressed and in half precision: an interrupted pass resumes where it stopped, and
partly written entries are never read. A cache belongs to one teacher, size, seed, augmentation and number of copies.
Images are identified by the content of their files, so that datasets with the same file names can share a cache.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from perception_encoder.errors import ConfigError, DataError, InputError, one_line
from perception_encoder.files import writing

LEVEL = 1
"""zlib level: higher ones are slower and save little."""
FORMAT = 2
"""Raised when images are identified in another way."""
SUFFIX = ".sqlite"


class TeacherCache:
    """Tokens (N, P) by the digest of an image's content and the number of its copy."""

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Open a file; with `settings` it is created if it does not exist, and must have the same settings if it does.

        Raises DataError for a missing or damaged file, ConfigError for one with other settings.
        """
        if settings is None and not path.is_file():
            raise DataError(f"{path} does not exist; `pe data masks` makes it")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._checked():
            self._file = sqlite3.connect(path, check_same_thread=False)
            self._file.execute("CREATE TABLE IF NOT EXISTS settings (json TEXT)")
            self._file.execute(
                "CREATE TABLE IF NOT EXISTS tokens (image TEXT, copy INTEGER, rows INTEGER, content BLOB, "
                "PRIMARY KEY (image, copy))"
            )
            row = self._file.execute("SELECT json FROM settings").fetchone()
            if row is None and settings is not None:
                self._file.execute("INSERT INTO settings VALUES (?)", (json.dumps(settings),))
                self._file.commit()
            self.settings: dict[str, Any] = json.loads(row[0] if row else json.dumps(settings or {}))
            if not isinstance(self.settings, dict):
                raise ValueError("its settings are not a JSON object")
        if settings is not None:
            self.check(settings)

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Turn errors of a damaged file into a DataError."""
        try:
            yield
        except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
            reason = f"is not a cache of masks, or is damaged ({one_line(error)})"
            raise DataError(f"{self.path} {reason}; delete it and run `pe data masks` again") from None

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError unless the cache was made with these settings."""
        for name, value in json.loads(json.dumps(settings)).items():
            if self.settings.get(name) != value:
                raise ConfigError(
                    f"{self.path} was made with {name} {self.settings.get(name)!r}, but this run has {value!r}; "
                    "change the setting, or make another cache"
                )

    def __len__(self) -> int:
        with self._checked():
            return int(self._file.execute("SELECT COUNT(*) FROM tokens").fetchone()[0])

    def __contains__(self, key: tuple[str, int]) -> bool:
        with self._checked():
            return self._file.execute("SELECT 1 FROM tokens WHERE image = ? AND copy = ?", key).fetchone() is not None

    def get(self, digest: str, copy: int, count: int, name: str) -> Float[Tensor, "N P"]:
        """Return the `count` tokens of an image's copy; InputError with its `name` if they are missing or damaged."""
        try:
            row = self._file.execute(
                "SELECT rows, content FROM tokens WHERE image = ? AND copy = ?", (digest, copy)
            ).fetchone()
            if row is None:
                raise InputError(name, f"has no masks in {self.path}; run `pe data masks` to the end")
            values = np.frombuffer(zlib.decompress(row[1]), np.float16).reshape(row[0], -1)
            if len(values) != count or not values.size:
                raise ValueError(f"they have {values.shape[0]}x{values.shape[1]} values, not {count} tokens")
            return torch.from_numpy(values.astype(np.float32))
        except (sqlite3.Error, zlib.error, ValueError, TypeError) as error:
            reason = f"its masks in {self.path} are damaged ({one_line(error)})"
            raise InputError(name, f"{reason}; delete that file and run `pe data masks` again") from None

    def put(self, digest: str, copy: int, tokens: Float[Tensor, "N P"]) -> int:
        """Write tokens, all or nothing, and return their compressed bytes; OutputError if that fails."""
        content = compress(tokens)
        with writing(self.path, "if it is damaged, delete it", also=(sqlite3.Error,)), self._file:
            self._file.execute(
                "INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?)", (digest, copy, len(tokens), content)
            )
        return len(content)


def compress(tokens: Float[Tensor, "N P"]) -> bytes:
    """Return tokens in half precision, compressed by zlib."""
    return zlib.compress(tokens.to(torch.float16).contiguous().numpy().tobytes(), LEVEL)
