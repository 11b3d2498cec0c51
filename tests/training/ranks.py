"""What as many processes as there are do together: loss and gradients of one batch, and a run of several clocks."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
import torch.nn.functional as F

from perception_encoder.losses.pretraining import contrastive_loss
from perception_encoder.models.clip import CLIP
from perception_encoder.training import checkpoint, loop
from perception_encoder.training.distributed import gather, in_chunks, process_group, this_rank
from tests.models.small import CORE, SIZE, TEXT, randomize
from tests.training.toys import ToyConfig

PICTURES, CAPTIONS = 13, 11  # no multiples of anything


def loss_and_gradients(dtype: torch.dtype, chunk: int | None) -> dict[str, torch.Tensor]:
    """Of the whole batch, whatever the number of processes."""
    model = CLIP(CORE, TEXT)
    randomize(model)
    model = model.to(dtype)
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randn(PICTURES, 3, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    tokens = torch.randint(1, 49, (CAPTIONS, 8), generator=generator)
    positives = torch.rand(PICTURES, CAPTIONS, generator=generator) < 0.1
    positives[:, 0] |= ~positives.any(1)
    positives[0] |= ~positives.any(0)
    rank = this_rank()
    own_pictures, own_captions = rank.share(PICTURES), rank.share(CAPTIONS)
    images = F.normalize(in_chunks(model.encode_image, pictures[own_pictures], chunk), dim=-1)
    texts = F.normalize(in_chunks(model.encode_text, tokens[own_captions], chunk), dim=-1)
    loss = contrastive_loss(
        gather(images, PICTURES),
        gather(texts, CAPTIONS),
        model.logit_scale.exp(),
        positives[own_pictures],
        positives[:, own_captions].T,
        own_pictures,
        own_captions,
    )
    loss.backward()
    results = {name: parameter.grad for name, parameter in model.named_parameters()} | {"loss": loss.detach()}
    if rank.world_size > 1:
        for value in results.values():
            dist.all_reduce(value)
    return results


def write(out: Path, chunks: Sequence[int | None]) -> None:
    """By each rank, in both types."""
    with process_group() as rank:
        results = {
            str(dtype): {chunk: loss_and_gradients(dtype, chunk) for chunk in chunks}
            for dtype in (torch.float64, torch.float32)
        }
        if rank.is_first:
            torch.save(results, out)


class Sum:
    """A task on a batch of ones, without reports."""

    validation = None

    def __init__(self) -> None:
        self.model = torch.nn.Linear(4, 1)
        torch.nn.init.ones_(self.model.weight)

    def losses(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": self.model(batch).pow(2).mean()}

    def report(self) -> dict[str, float]:
        return {}

    def after_step(self) -> None:
        pass


def train_by_own_clocks(out: Path) -> None:
    """Nine steps; the first rank's clock goes three minutes a step, the others' stand still."""
    now, pace = [0.0], 180.0 if os.environ["RANK"] == "0" else 0.0

    def batch(step: int) -> torch.Tensor:
        return torch.ones(2, 4)

    def tick() -> float:
        now[0] += pace
        return now[0]

    loop.time = SimpleNamespace(perf_counter=time.perf_counter, monotonic=tick)
    with process_group():
        loop.train_steps(
            loop.Section(Sum(), batch), ToyConfig(steps=9, warmup=1, checkpoint_minutes=5.0, keep=9), out, "a"
        )


def train_on_a_full_disk(out: Path) -> None:
    """Four steps; the first rank cannot complete its first checkpoint."""
    sync, failed = checkpoint.sync, []

    def fail_once(path: Path) -> None:
        if not failed and this_rank().is_first:
            failed.append(path)
            raise OSError(28, "No space left on device")
        sync(path)

    checkpoint.sync = fail_once
    with process_group():
        loop.train_steps(
            loop.Section(Sum(), lambda step: torch.ones(2, 4)),
            ToyConfig(steps=4, warmup=1, checkpoint_every=2, keep=9),
            out,
            "a",
        )
