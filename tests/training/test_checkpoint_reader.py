"""Checkpoints are read as data alone."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import Metadata

from perception_encoder.errors import CheckpointError
from perception_encoder.training.checkpoint import CheckpointReader, RunState, find_checkpoints, resume_run, save_run
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer

pytestmark = pytest.mark.security


def model_and_optimizer(name: str = "lamb") -> tuple[nn.Module, torch.optim.Optimizer]:
    model = nn.Linear(4, 3)
    return model, build_optimizer(model, OptimizerConfig(name=name))


def write_checkpoint(directory: Path, name: str = "lamb", dtype: torch.dtype = torch.float32) -> Path:
    """A checkpoint after one step."""
    model, optimizer = model_and_optimizer(name)
    model.to(dtype)(torch.ones(2, 4, dtype=dtype)).sum().backward()
    optimizer.step()
    save_run(directory, model, optimizer, RunState(step=1, fingerprint="a"))
    [(path, _)] = find_checkpoints(directory)
    return path


class Attack:
    """Pickled, it makes a directory when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("name", ["lamb", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_torch_writes_is_read_as_torch_reads_it(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path, name, dtype)
    ours, theirs = (reader(path).read_metadata() for reader in (CheckpointReader, FileSystemReader))
    assert isinstance(ours, Metadata)
    for part in ("state_dict_metadata", "planner_data", "storage_data", "version"):
        assert getattr(ours, part) == getattr(theirs, part)


@pytest.mark.parametrize("inside", ["alone", "in the data"])
def test_code_in_a_checkpoint_s_metadata_is_not_run(inside: str, tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "run")
    attack, file = Attack(tmp_path / "mark"), path / ".metadata"
    if inside == "in the data":
        metadata = pickle.loads(file.read_bytes())
        metadata.planner_data["more"] = attack
        attack = metadata
    file.write_bytes(pickle.dumps(attack))
    before = find_checkpoints(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"\.metadata names posix\.mkdir, .* nothing was executed; delete"):
        resume_run(tmp_path / "run", *model_and_optimizer(), "a")
    assert not (tmp_path / "mark").exists() and find_checkpoints(tmp_path / "run") == before
    pickle.loads(file.read_bytes())  # as torch's own reader does: the attack is one
    assert (tmp_path / "mark").exists()


def test_code_in_a_checkpoint_s_values_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_checkpoint(tmp_path / "run")
    stream = io.BytesIO()
    torch.save(Attack(tmp_path / "mark"), stream)
    (path / "evil").write_bytes(stream.getvalue())
    metadata = pickle.loads((path / ".metadata").read_bytes())
    index = next(index for index in metadata.storage_data if index.fqn == "optimizer/param_groups.weight.betas")
    info = metadata.storage_data[index]
    info.relative_path, info.offset, info.length = "evil", 0, len(stream.getvalue())
    (path / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match="can be read; delete them"):
        resume_run(tmp_path / "run", *model_and_optimizer(), "a")
    assert "cannot be read (Weights only load failed" in caplog.text and not (tmp_path / "mark").exists()
    torch.load(io.BytesIO(stream.getvalue()), weights_only=False)
    assert (tmp_path / "mark").exists()
