"""Keep a mask teacher's tokens of a dataset on the disk, for a fixed number of augmentations of each image.

A file of SQLite holds them, compressed and in half precision, so that an interrupted pass goes on where it stopped and
nothing half-written is ever read. It belongs to one teacher, size, seed, augmentation and number of copies.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from perception_encoder.errors import ConfigError, DataError, InputError

LEVEL = 1
"""Of zlib: higher ones are slower and hardly smaller."""


SUFFIX = ".sqlite"


class TeacherCache:
    """Tokens (N, P) by image and copy."""

    def __init__(self, path: Path, settings: Mapping[str, Any] | None = None) -> None:
        """Open a file; with `settings` it is made if it does not exist, and must belong to the same ones if it does.

        Raises DataError for a missing or damaged file, ConfigError for one of other settings.
        """
        if settings is None and not path.is_file():
            raise DataError(f"{path} does not exist; `pe data masks` makes it")
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
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
        except sqlite3.Error as error:
            raise DataError(f"{path} is not a cache of masks, or is damaged ({error}); delete it") from None
        self.settings: dict[str, Any] = json.loads(row[0] if row else json.dumps(settings or {}))
        if settings is not None:
            self.check(settings)

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError unless the cache was made with these settings."""
        for name, value in json.loads(json.dumps(settings)).items():
            if self.settings.get(name) != value:
                raise ConfigError(
                    f"{self.path} was made with {name} {self.settings.get(name)!r}, but this run has {value!r}; "
                    "set it back, or make another cache"
                )

    def __len__(self) -> int:
        return int(self._file.execute("SELECT COUNT(*) FROM tokens").fetchone()[0])

    def __contains__(self, key: tuple[str, int]) -> bool:
        return self._file.execute("SELECT 1 FROM tokens WHERE image = ? AND copy = ?", key).fetchone() is not None

    def get(self, image: str, copy: int) -> Float[Tensor, "N P"]:
        """The tokens of an image's copy; InputError if the cache lacks them or they are damaged."""
        try:
            row = self._file.execute(
                "SELECT rows, content FROM tokens WHERE image = ? AND copy = ?", (image, copy)
            ).fetchone()
            if row is None:
                raise InputError(image, f"has no masks in {self.path}; run `pe data masks` to the end")
            values = np.frombuffer(zlib.decompress(row[1]), np.float16)
            return torch.from_numpy(values.reshape(row[0], -1).astype(np.float32))
        except (sqlite3.Error, zlib.error, ValueError) as error:
            raise InputError(image, f"its masks in {self.path} are damaged ({error})") from None

    def put(self, image: str, copy: int, tokens: Float[Tensor, "N P"]) -> int:
        """Write tokens, all or nothing; return their compressed bytes."""
        content = compress(tokens)
        with self._file:
            self._file.execute("INSERT OR REPLACE INTO tokens VALUES (?, ?, ?, ?)", (image, copy, len(tokens), content))
        return len(content)


def compress(tokens: Float[Tensor, "N P"]) -> bytes:
    """Half precision, by zlib."""
    return zlib.compress(tokens.to(torch.float16).contiguous().numpy().tobytes(), LEVEL)
