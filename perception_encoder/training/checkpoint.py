"""Save and load distributed checkpoints (torch's DCP): each rank writes its part, any number of ranks can read them.

RUN/checkpoints/step-00000200/ appears under its name only when it is complete. The newest few and the best are kept.
"""

from __future__ import annotations

import io
import json
import logging
import pickle
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import torch
import torch.distributed as dist
from torch import Tensor, nn, optim
from torch.distributed.checkpoint import filesystem, metadata
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.planner import ReadItem

from perception_encoder.errors import CheckpointError, OutputError, one_line
from perception_encoder.files import holding, make_directory, remove, sync, writing
from perception_encoder.preprocess.source import escape_name
from perception_encoder.records import parse_json
from perception_encoder.training.distributed import this_rank

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
_STATE = "run.json"
Fit = Callable[[str, Tensor, Tensor], Tensor]
"""Converts a saved tensor to the current shape, or raises CheckpointError: `fit(name, saved, current)`."""
BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class RunState:
    """Progress of a run."""

    step: int  # steps done
    fingerprint: str  # identity of the run's configuration; only the same one can be resumed
    best: float | None = None  # the best validation score so far; None without validation
    best_step: int | None = None  # step of the best score


@contextmanager
def run_directory(directory: Path) -> Iterator[None]:
    """Create a run's directory and lock it until the block ends; OutputError if another run holds it.

    The first rank holds the lock for all. A run that is refused before it writes anything leaves no lock.
    """
    if not this_rank().is_first:
        yield
        return
    lock, existed = directory / "lock", directory.exists()
    with holding(lock, f"another run is training in {directory}; wait for it, or choose another directory"):
        try:
            yield
        finally:
            with suppress(OSError):  # on Windows, it cannot be removed while it is held
                if all(path == lock for path in directory.iterdir()):
                    lock.unlink()
                    if not existed:
                        directory.rmdir()


def save_run(directory: Path, model: nn.Module, optimizer: optim.Optimizer, state: RunState, keep: int = 2) -> None:
    """Add a checkpoint, then delete all but the newest `keep` and the best; all ranks call it.

    If that fails, OutputError, and the old ones stay.
    """
    from torch.distributed.checkpoint.state_dict_saver import save

    path = directory / CHECKPOINTS / f"step-{state.step:08d}"
    temporary = path.with_name(f".{path.name}.tmp")
    with writing(path, also=(RuntimeError,)), _quietly():
        with _first_rank() as is_first:
            if is_first:
                make_directory(path.parent)
                for leftover in path.parent.glob(".step-*.tmp"):  # of a killed run
                    remove(leftover)
                temporary.mkdir()
        save(_tensors(model, optimizer), checkpoint_id=temporary)
        with _first_rank() as is_first:
            if is_first:
                (temporary / _STATE).write_text(json.dumps(asdict(state)), encoding="utf-8")
                for path_to_sync in (*temporary.iterdir(), temporary):
                    sync(path_to_sync)
                remove(path)
                temporary.rename(path)
                sync(path.parent)
                for old, other in find_checkpoints(directory)[keep:]:
                    if other.step != state.best_step:
                        remove(old)


@contextmanager
def _first_rank() -> Iterator[bool]:
    """Yield whether this is the first rank; the others wait for it, and all raise its error."""
    errors: list[OSError | OutputError | None] = [None]
    try:
        yield this_rank().is_first
    except (OSError, OutputError) as error:
        errors = [error]
    if dist.is_initialized():
        dist.broadcast_object_list(errors)
    if errors[0] is not None:
        raise errors[0]


def find_checkpoints(directory: Path) -> list[tuple[Path, RunState]]:
    """Return the complete checkpoints of a run, newest first."""
    checkpoints = []
    for path in sorted((directory / CHECKPOINTS).glob("step-*"), reverse=True):
        try:
            checkpoints.append((path, parse_json((path / _STATE).read_bytes(), RunState)))
        except (OSError, ValueError) as error:
            text = "%s is not a complete checkpoint (%s); using an older one if there is one"
            logger.warning(text, escape_name(path), one_line(error))
    return checkpoints


def check_run(directory: Path, fingerprint: str, changes: str = "") -> None:
    """Raise CheckpointError if the directory has another run's checkpoints; `changes`: its settings that differ."""
    for path, state in find_checkpoints(directory):
        if state.fingerprint != fingerprint:
            other = f"with other settings ({changes})" if changes else "with other settings or other data, or of a"
            other += "" if changes else " version that trains differently"
            raise CheckpointError(f"{path} belongs to a run {other}; choose another directory or delete it")


def resume_run(
    directory: Path, model: nn.Module, optimizer: optim.Optimizer, fingerprint: str, fit: Fit | None = None
) -> RunState:
    """Load the newest readable checkpoint in place and return its state; step 0 if there is none.

    `fit` converts each saved tensor whose shape has changed, in the optimizer's state too. Raises CheckpointError if
    the checkpoints are another run's, none can be read, or one is not plain data (`CheckpointReader`).
    """
    check_run(directory, fingerprint)
    checkpoints = find_checkpoints(directory)
    for path, state in checkpoints:
        try:
            _load(path, model, optimizer, fit)
            return state
        except CheckpointError:
            raise
        except Exception as error:  # torch raises many kinds for a damaged file
            text = "%s cannot be read (%s); using an older one if there is one"
            logger.warning(text, escape_name(path), one_line(error, first=True))
    if checkpoints or any((directory / CHECKPOINTS).glob("step-*")):
        raise CheckpointError(f"no checkpoint in {directory / CHECKPOINTS} can be read; delete them to start again")
    return RunState(step=0, fingerprint=fingerprint)


def load_weights(directory: Path, step: int, model: nn.Module) -> None:
    """Load a model's weights after a step, in place and without other ranks; or raise CheckpointError."""
    from torch.distributed.checkpoint.state_dict_loader import load

    path = directory / CHECKPOINTS / f"step-{step:08d}"
    frozen = _frozen(model)
    tensors = {f"model/{name}": tensor for name, tensor in model.state_dict().items() if name not in frozen}
    try:
        with _quietly():
            load(tensors, storage_reader=CheckpointReader(path), planner=PlainValues(), no_dist=True)
    except CheckpointError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        raise CheckpointError(f"{path} cannot be read: {one_line(error, first=True)}") from error


def _load(path: Path, model: nn.Module, optimizer: optim.Optimizer, fit: Fit | None) -> None:
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_state_dict
    from torch.distributed.checkpoint.state_dict_loader import load

    current = _tensors(model, optimizer)
    saved = dict(current)
    reader = CheckpointReader(path)
    sizes = reader.read_metadata().state_dict_metadata
    missing = current.keys() ^ sizes.keys()
    if missing:
        raise CheckpointError(f"{path} does not fit this run ({min(missing)}); delete it to start again")
    for name, tensor in current.items():
        size = getattr(sizes[name], "size", None)
        if isinstance(tensor, Tensor) and size is not None and size != tensor.shape:
            if fit is None:
                raise CheckpointError(f"{path} does not fit this run (shape of {name}); delete it to start again")
            saved[name] = tensor.new_empty(size)
    with _quietly():
        load(saved, storage_reader=reader, planner=PlainValues())
    for name, tensor in saved.items():
        if isinstance(tensor, Tensor) and tensor.shape != current[name].shape:
            assert fit is not None  # checked above
            saved[name] = fit(name, tensor, current[name])
    parts: dict[str, dict[str, Any]] = {"model": {}, "optimizer": {}}
    for name, value in saved.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    settings: dict[str, dict[str, Any]] = {}
    for name, value in parts["optimizer"].items():
        owner, _, setting = name.rpartition(".")
        settings.setdefault(owner, {})[setting] = value
    for name, leader in _leaders(model, optimizer).items():
        parts["optimizer"] |= {f"{name}.{setting}": value for setting, value in settings[leader].items()}
    set_state_dict(
        model,
        optimizer,
        model_state_dict=parts["model"],
        optim_state_dict=parts["optimizer"],
        options=StateDictOptions(flatten_optimizer_state_dict=True, strict=not _frozen(model)),
    )


def _tensors(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, Any]:
    """Return everything to save, under names that do not depend on sharding.

    The frozen parameters of a language model are left out. The settings of an optimizer group are saved once: stored
    with each parameter, as torch does, they are five times as many values as the rest.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict

    options = StateDictOptions(flatten_optimizer_state_dict=True)
    of_model, of_optimizer = get_state_dict(model, optimizer, options=options)
    frozen, leaders = _frozen(model), _leaders(model, optimizer)
    followers = {name for name, leader in leaders.items() if name != leader}
    return {f"model/{name}": value for name, value in of_model.items() if name not in frozen} | {
        f"optimizer/{name}": value for name, value in of_optimizer.items() if name.rpartition(".")[0] not in followers
    }


def _leaders(model: nn.Module, optimizer: optim.Optimizer) -> dict[str, str]:
    """Return, by parameter, the group's first parameter, after which torch names the group's settings."""
    names = {id(tensor): f"param_groups.{name.removeprefix('module.')}" for name, tensor in model.named_parameters()}
    groups = [[names[id(tensor)] for tensor in group["params"]] for group in optimizer.param_groups]
    return {name: group[0] for group in groups for name in group}


def _frozen(model: nn.Module) -> set[str]:
    """Return the names of a language model's frozen parameters, including all names of shared ones.

    They are most of the bytes, and a resumed run reads them from the language model's files.
    """
    names = set()
    for prefix, module in model.named_modules():
        if getattr(module, "_no_split_modules", None):  # a model of transformers
            parameters = module.named_parameters(prefix, remove_duplicate=False)
            names |= {name.removeprefix("module.") for name, tensor in parameters if not tensor.requires_grad}
    return names


@contextmanager
def _quietly() -> Iterator[None]:
    """Hide DCP's warning about a single process; raise its errors (not Exceptions) as RuntimeError."""
    from torch.distributed.checkpoint.api import CheckpointException

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        warnings.filterwarnings("ignore", category=FutureWarning)
        try:
            yield
        except CheckpointException as error:
            reasons = [failure[0] for failure in error.failures.values()]
            raise RuntimeError(str(reasons[0]) if reasons else "no rank gave a reason") from error


_ALLOWED = {
    (kind.__module__, kind.__qualname__): kind
    for kind in (
        metadata.Metadata,
        metadata.MetadataIndex,
        metadata.StorageMeta,
        metadata.TensorProperties,
        metadata.TensorStorageMetadata,
        metadata.BytesStorageMetadata,
        metadata.ChunkStorageMetadata,
        metadata._MEM_FORMAT_ENCODING,
        filesystem._StorageInfo,
        torch.Size,
        torch.serialization._get_layout,
    )
}


class CheckpointReader(filesystem.FileSystemReader):
    """torch's reader of a checkpoint, with a `.metadata` that may only contain data; CheckpointError otherwise."""

    def read_metadata(self) -> metadata.Metadata:
        path = Path(self.path) / ".metadata"
        with path.open("rb") as file:
            read = _MetadataUnpickler(file, path).load()
        if not isinstance(read, metadata.Metadata):
            raise ValueError(f"{path} holds no metadata")
        read.storage_meta = read.storage_meta or metadata.StorageMeta()
        read.storage_meta.load_id = self.load_id
        return read


class PlainValues(DefaultLoadPlanner):
    """torch's planner, which reads non-tensor values (numbers, strings, lists of them) without running code."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Put a value into the flat state; pickle.UnpicklingError if it is more than data."""
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
