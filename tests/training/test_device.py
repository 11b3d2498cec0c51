"""A rank trains on its own device, seen without a GPU: torch's fake tensors know where they are."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.dense_training.batches import DenseBatch
from perception_encoder.training import loop
from perception_encoder.training.distributed import ParallelConfig, own_device, process_group
from perception_encoder.training.loop import Section, train_steps
from tests.training.toys import ToyConfig

GPU = torch.device("cuda", 3)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """The fourth rank of a machine with GPUs; which of them a thread was put onto."""
    chosen: list[torch.device] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    return chosen


def test_a_rank_has_the_gpu_of_its_number_or_the_cpu(gpus: list, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_device() == GPU
    monkeypatch.delenv("LOCAL_RANK")
    assert own_device() == torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_device() == torch.device("cpu")


def test_ranks_with_gpus_talk_by_nccl_each_on_its_own(gpus: list, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list = []
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setattr(dist, "init_process_group", lambda backend, device_id: started.append((backend, device_id)))
    monkeypatch.setattr(dist, "barrier", lambda: started.append("all are done"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: started.append("ended"))
    with process_group():
        assert started == [("nccl", GPU)] and gpus == [GPU]
    assert started[1:] == ["all are done", "ended"]


def small_batch() -> ImageTextBatch:
    return ImageTextBatch(
        torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(2, 5, dtype=torch.int64),
        torch.eye(2, dtype=torch.bool),
        torch.eye(2, dtype=torch.bool),
        texts=("a", "b"),
        masked=torch.tensor([0]),
        masks=torch.ones(1, 4, dtype=torch.bool),
    )


def test_a_batch_goes_to_a_device_out_of_pinned_memory_but_for_what_the_host_must_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = small_batch()
    pinned: list[Tensor] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        tensors = [f.name for f in dataclasses.fields(batch) if isinstance(getattr(batch, f.name), Tensor)]
        fake = dataclasses.replace(batch, **{name: mode.from_tensor(getattr(batch, name)) for name in tensors})
        there = fake.to(GPU)
    on_host = {name for name in tensors if getattr(there, name).device.type == "cpu"}
    assert on_host == {"tokens", "masks"} and len(tensors) - len(on_host) == len(pinned) == 4
    assert all(getattr(there, name).device == GPU for name in tensors if name not in on_host)
    assert there.texts == batch.texts
    pinned.clear()
    here = batch.to(torch.device("cpu"))
    assert not pinned and all(getattr(here, name) is getattr(batch, name) for name in tensors)


def test_a_batch_s_targets_go_to_its_device() -> None:
    images, boxes = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 4)
    there = DenseBatch(images=images, share=1.0, targets=[{"boxes": boxes}], draw=0).to(torch.device("meta"))
    assert there.images.is_meta and [target["boxes"].is_meta for target in there.targets] == [True]


class Stopped(Exception):
    """What is looked at has happened."""


class Sum:
    """A task that looks where its model and its batch are."""

    validation = None

    def __init__(self) -> None:
        self.model = nn.Linear(4, 1)

    def losses(self, batch: Tensor) -> dict[str, Tensor]:
        assert batch.device == self.model.weight.device == torch.device("meta")
        raise Stopped


def test_the_model_is_moved_before_it_is_shared_out_and_every_batch_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, torch.device] = {}

    def shared(model: nn.Module, config: ParallelConfig) -> nn.Module:
        seen["shared"] = next(model.parameters()).device
        return model

    def optimizer(model: nn.Module, config: object) -> torch.optim.Optimizer:
        seen["optimizer"] = next(model.parameters()).device
        return torch.optim.SGD(model.parameters(), lr=1.0)

    monkeypatch.setattr(loop, "own_device", lambda: torch.device("meta"))
    monkeypatch.setattr(loop, "parallelize", shared)
    monkeypatch.setattr(loop, "build_optimizer", optimizer)
    monkeypatch.setattr(loop, "fast_autocast", lambda device: nullcontext())
    with pytest.raises(Stopped):
        train_steps(Section(Sum(), lambda step: torch.ones(2, 4)), ToyConfig(steps=1, warmup=0), tmp_path, "a")
    assert seen == {"shared": torch.device("meta"), "optimizer": torch.device("meta")}


def test_the_thread_that_makes_batches_uses_the_rank_s_gpu(gpus: list) -> None:
    assert [step for step, _, _ in loop.prefetch(lambda step: step, 0, 2)] == [0, 1]
    assert gpus == [GPU]
