"""Checkpoints of strangers are data and run nothing; a run directory belongs to one run at a time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from perception_encoder.errors import OutputError
from perception_encoder.training import checkpoint
from perception_encoder.training.checkpoint import (
    RunState,
    find_checkpoints,
    load_weights,
    resume_run,
    run_directory,
    save_run,
)
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from tests.training.toys import Regression, batch


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


def test_a_run_directory_is_one_run_s_at_a_time(tmp_path: Path) -> None:
    taken = f"another run is training in {tmp_path / 'run'}; wait for it, or choose another directory"
    with run_directory(tmp_path / "run"), pytest.raises(OutputError, match=taken), run_directory(tmp_path / "run"):
        pass
    with run_directory(tmp_path / "run"), run_directory(tmp_path / "other"):
        pass


def test_the_newest_and_the_best_are_kept(tmp_path: Path) -> None:
    task = Regression()
    optimizer = build_optimizer(task.model, OptimizerConfig(name="adamw"))
    task.losses(batch(0))["error"].backward()
    optimizer.step()
    for step, score in enumerate([5.0, 1.0, 4.0, 3.0, None]):
        save_run(tmp_path, task.model, optimizer, RunState(step=step, fingerprint="a", score=score), keep=2)
    assert [state.step for _, state in find_checkpoints(tmp_path)] == [4, 3, 1]


def test_settings_of_the_optimizer_are_saved_once_for_all_parameters_of_a_group(tmp_path: Path) -> None:
    def make() -> tuple[nn.Module, torch.optim.Optimizer]:
        model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(5)))
        return model, build_optimizer(model, OptimizerConfig(name="lamb"))

    model, optimizer = make()
    for _ in range(3):
        model(torch.ones(2, 4)).sum().backward()
        optimizer.step()
    names = [name.rpartition(".") for name in checkpoint._tensors(model, optimizer) if "param_groups" in name]
    assert {owner for owner, _, _ in names} == {f"optimizer/param_groups.0.{kind}" for kind in ("weight", "bias")}
    save_run(tmp_path, model, optimizer, RunState(step=3, fingerprint="a"))
    again, other = make()
    resume_run(tmp_path, again, other, "a")
    assert other.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]
    assert [group["step"] for group in other.param_groups] == [3, 3]  # LAMB counts its steps there


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


class Words(nn.Module):
    """A language model of transformers: a table that its head shares, and a block with an adapter."""

    _no_split_modules = ("Block",)

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(8, 4), nn.Linear(4, 8, bias=False)
        self.head.weight = self.table.weight
        self.block, self.adapter = nn.Linear(4, 4), nn.Linear(4, 4)
        for module in (self.table, self.block):
            module.requires_grad_(False)


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "as DDP has it"])
def test_of_a_language_model_what_is_trained_is_saved_and_what_is_frozen_is_not(wrapped: bool) -> None:
    model = nn.ModuleDict({"language": Words(), "projector": nn.Linear(4, 4), "vision": nn.Linear(4, 4)})
    model["vision"].requires_grad_(False)  # frozen, but not a language model's: no file of its own has it
    whole = nn.ModuleDict({"module": model}) if wrapped else model
    frozen = {f"language.{name}" for name in ("table.weight", "head.weight", "block.weight", "block.bias")}
    assert checkpoint._frozen(whole) == frozen
    if not wrapped:
        optimizer = build_optimizer(model, OptimizerConfig(name="adamw"))
        saved = {name.removeprefix("model/") for name in checkpoint._tensors(model, optimizer) if "model/" in name[:6]}
        parts = ("language.adapter", "projector", "vision")
        assert saved == {f"{part}.{kind}" for part in parts for kind in ("weight", "bias")}


def test_what_a_kill_left_of_a_checkpoint_is_not_in_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / checkpoint.CHECKPOINTS / ".step-00000001.tmp"
    left.mkdir(parents=True)
    (left / "half.distcp").write_bytes(b"x")
    path = write_checkpoint(tmp_path)
    assert not left.exists() and not (path / "half.distcp").exists()
    model, optimizer = model_and_optimizer()
    assert resume_run(tmp_path, model, optimizer, "a").step == 1
