"""Read and write checkpoint files, .safetensors and .pt, without ever running code from a file."""

from __future__ import annotations

import argparse
import pickle
import re
import time
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors

from perception_encoder.errors import CheckpointError, ConfigError, OutputError, one_line
from perception_encoder.files import cache_directory, digest, file_state, replacing, write_text, writing

if TYPE_CHECKING:
    from torch import Tensor

    from perception_encoder.models.checkpoints.layouts import StateDict

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_SCALE_SUFFIX = ".row_scale"  # beside an int8 tensor: one factor a row
SETTLED_NS = 2_000_000_000
"""Minimum age in nanoseconds at which a file's times identify its content: a later write changes them."""
_HASH = re.compile(r"[0-9a-f]{16}")


def read_checkpoint(path: Path) -> tuple[StateDict, dict[str, str]]:
    """Read the tensors and the text metadata of a file in either format; CheckpointError for other files.

    Tensors are mapped into memory: a value is read from disk when it is first used.
    """
    import torch

    from perception_encoder.models.checkpoints.layouts import unwrap

    if not path.is_file():
        raise CheckpointError(f"{path}: " + ("a directory, not a checkpoint" if path.is_dir() else "no such file"))
    try:
        if _is_safetensors(path):
            with safetensors.safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
                return _expand_rows(tensors), file.metadata() or {}
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):  # a trainer's options
            warnings.simplefilter("ignore")  # torch's guesses about damaged files
            state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        return unwrap(state), {}
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"refused, it would run {code[1]}" if code else "empty, damaged, or not a checkpoint at all"
        raise CheckpointError(f"{path}: {what}; nothing in it was run") from None
    except Exception as error:  # what a damaged file makes a reader raise is open-ended
        raise CheckpointError(
            f"{path}: empty, damaged, or not a checkpoint at all ({one_line(error, first=True)})"
        ) from None


def _is_safetensors(path: Path) -> bool:
    with open(path, "rb") as file:
        start = file.read(9)  # the header's length, then its opening brace
    return start[8:] == b"{" or path.suffix == ".safetensors"


def write_tensors(tensors: StateDict, path: Path, metadata: dict[str, str]) -> None:
    """Write .safetensors, or .pt (without metadata), atomically; OutputError if that fails."""
    import safetensors.torch
    import torch

    check_suffix(path)
    with writing(path, also=(RuntimeError, safetensors.SafetensorError)), replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # as the umask says; safetensors lets only the owner read
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        else:
            torch.save(tensors, temporary)
        temporary.chmod(mode)


def check_suffix(path: Path) -> None:
    """Raise ConfigError unless the name is a checkpoint's."""
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: a checkpoint's name must end in one of {', '.join(SUFFIXES)}")


def quantized_rows(name: str, table: Tensor) -> StateDict:
    """Return a matrix as int8 values, with one factor per row under another name."""
    import torch

    table = table.float()
    scale = table.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return {name: (table / scale).round().to(torch.int8), name + _SCALE_SUFFIX: scale}


def _expand_rows(state: StateDict) -> StateDict:
    scales = {n.removesuffix(_SCALE_SUFFIX): state.pop(n) for n in list(state) if n.endswith(_SCALE_SUFFIX)}
    return state | {name: state[name].float() * scale for name, scale in scales.items()}


class CachedHash:
    """The cached hash of a weight file; `file_state` identifies its content, and makes up its `key`."""

    def __init__(self, path: Path) -> None:
        self._path, self._state = path, file_state(path)
        self.key = digest(self._state)
        self._entry = cache_directory("weight-hashes") / self.key

    def find(self) -> str | None:
        """Return the hash if it is cached."""
        with suppress(OSError, ValueError):
            cached = self._entry.read_text(encoding="ascii")
            return cached if _HASH.fullmatch(cached) else None
        return None

    def get(self, compute: Callable[[], str]) -> str:
        """Return the cached hash, else `compute()`, which is then cached unless the file has changed meanwhile."""
        if (cached := self.find()) is not None:
            return cached
        value = compute()
        with suppress(OSError, OutputError):
            status = self._path.stat()
            age = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns)
            if file_state(self._path) == self._state and age > SETTLED_NS:
                write_text(self._entry, value)
        return value
