"""Checkpoints: complete or absent, plain data, resumed exactly; the best ones are kept and written."""

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
from perception_encoder.training import checkpoint
from perception_encoder.training.checkpoint import (
    CheckpointReader,
    RunState,
    find_checkpoints,
    load_weights,
    resume_run,
    save_run,
)
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer


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


def test_a_checkpoint_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut leaves one that looks complete."""
    synced: set[str] = set()

    def note(path: Path) -> None:
        if path.parent.name.endswith(".tmp"):
            synced.add(path.name)

    monkeypatch.setattr(checkpoint, "sync", note)
    assert {path.name for path in write_checkpoint(tmp_path).iterdir()} == synced


def test_a_language_models_frozen_parameters_are_not_saved_and_stay_what_they_are(tmp_path: Path) -> None:
    def make(value: float) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 2))
        model[0]._no_split_modules = ["Block"]  # as models of transformers have it
        nn.init.constant_(model[0].requires_grad_(False).weight, value)
        return model, build_optimizer(model, OptimizerConfig(name="adamw"))

    model, optimizer = make(1.0)
    model(torch.ones(1, 256)).sum().backward()
    optimizer.step()
    save_run(tmp_path, model, optimizer, RunState(step=1, fingerprint="a"))
    [(path, _)] = find_checkpoints(tmp_path)
    assert sum(file.stat().st_size for file in path.iterdir()) < 256 * 256 * 4
    for again, other in (make(2.0), make(3.0)):
        resume_run(tmp_path, again, other, "a")
        assert torch.equal(again[1].weight, model[1].weight)
        assert not torch.equal(again[0].weight, model[0].weight)
    again, _ = make(2.0)
    load_weights(tmp_path, 1, again)
    assert torch.equal(again[1].weight, model[1].weight)


def test_what_a_kill_left_of_a_checkpoint_is_not_in_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / checkpoint.CHECKPOINTS / ".step-00000001.tmp"
    left.mkdir(parents=True)
    (left / "half.distcp").write_bytes(b"x")
    path = write_checkpoint(tmp_path)
    assert not left.exists() and not (path / "half.distcp").exists()
    model, optimizer = model_and_optimizer()
    assert resume_run(tmp_path, model, optimizer, "a").step == 1


pytestmark = pytest.mark.security


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
    with pytest.raises(CheckpointError, match=r"\.metadata names posix\.mkdir"):
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
