"""Read torch's distributed checkpoints as data only: nothing in the files is executed.

torch unpickles a checkpoint's `.metadata` and every value that is not a tensor, so a run directory from someone else
could execute any code. Here a pickle may name only what torch itself writes there.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import torch
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

from perception_encoder.errors import CheckpointError

_ALLOWED = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        *(metadata.Metadata, metadata.MetadataIndex, metadata.StorageMeta, metadata.TensorProperties),
        *(metadata.TensorStorageMetadata, metadata.BytesStorageMetadata, metadata.ChunkStorageMetadata),
        *(metadata._MEM_FORMAT_ENCODING, filesystem._StorageInfo, torch.Size, torch.serialization._get_layout),
    )
}


class CheckpointReader(filesystem.FileSystemReader):
    """torch's reader of a checkpoint, whose `.metadata` may hold data only; CheckpointError for anything else."""

    def read_metadata(self) -> metadata.Metadata:
        """Return what the checkpoint holds, and where."""
        path = Path(self.path) / ".metadata"
        with path.open("rb") as file:
            read = _MetadataUnpickler(file, path).load()
        if not isinstance(read, metadata.Metadata):
            raise ValueError(f"{path} holds no metadata")
        read.storage_meta = read.storage_meta or metadata.StorageMeta()
        read.storage_meta.load_id = self.load_id
        return read


class PlainValues(DefaultLoadPlanner):
    """torch's planner, which reads values other than tensors (numbers, texts, lists of them) without running code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value into the state, which is flat; pickle.UnpicklingError if it is more than data."""
        self.original_state_dict[read_item.dest_index.fqn] = torch.load(value, weights_only=True)


class _MetadataUnpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file)
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        if module.partition(".")[0] == "pathlib" and name.endswith("Path"):  # by the system that wrote it
            return PurePath
        raise CheckpointError(
            f"{self._path} names {module}.{name}, which no checkpoint needs: it may be an attack, and nothing was "
            f"executed; delete {self._path.parent}"
        )
