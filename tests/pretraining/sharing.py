"""Losses and gradients of one batch, shared out by FSDP2 among the processes of torchrun; rank 0 writes them."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.clip import CLIP
from perception_encoder.models.layers import Block
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import TrainingTowers
from perception_encoder.ranks import Rank
from perception_encoder.training.distributed import (
    ParallelConfig,
    mean_gradients,
    parallelize,
    process_group,
    this_rank,
    whole_model,
)
from perception_encoder.training.optimizer import OptimizerConfig, build_optimizer
from tests.models.small import CORE, SIZE, TEXT, randomize

PICTURES, LR = 7, 1e-3
CASES = {
    "all at once": (3, ParallelConfig(kind="fsdp")),
    "chunks": (5, ParallelConfig(kind="fsdp", chunk=2)),
    "recomputed": (5, ParallelConfig(kind="fsdp", checkpointing=True)),
    "chunks, recomputed": (5, ParallelConfig(kind="fsdp", chunk=2, checkpointing=True)),
    "one caption": (1, ParallelConfig(kind="fsdp", chunk=1)),
    "bfloat16": (5, ParallelConfig(kind="fsdp", chunk=2, checkpointing=True), torch.bfloat16),
}
"""Captions, of which the ranks have unlike numbers, and how a step is spread."""


def batch_of(captions: int, rank: Rank) -> ImageTextBatch:
    """A rank's part of a batch whose one masked copy is the last rank's."""
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (PICTURES, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    tokens = torch.randint(1, 49, (captions, 8), generator=generator)
    positives = torch.arange(PICTURES)[:, None] % captions == torch.arange(captions)
    masks = torch.rand(1, 16, generator=generator).argsort(dim=1) < 5
    rows, texts, masked = rank.share(PICTURES), rank.share(captions), torch.tensor([5])
    ours = (rows.start <= masked) & (masked < rows.stop)
    return ImageTextBatch(
        pictures[rows],
        tokens[texts],
        positives[rows],
        positives[:, texts].T,
        rows,
        texts,
        masked=masked[ours] - rows.start,
        masks=masks[ours],
        masked_share=float(ours.sum()),
    )


def losses_and_gradients(
    captions: int, config: ParallelConfig, dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """Of the whole batch, whatever the number of processes, the second time; and the parameters after it."""
    model = CLIP(CORE, TEXT)
    randomize(model)
    model.set_grad_checkpointing(config.checkpointing)
    rank = this_rank()
    task = ContrastiveTask(parallelize(TrainingTowers(model, masked=True, chunk=config.chunk), config))
    for _ in range(2):
        task.model.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            losses = task.losses(batch_of(captions, rank))
        blocks = [module for module in model.modules() if isinstance(module, Block)]
        shared = rank.world_size == 1 or all(isinstance(p, DTensor) for block in blocks for p in block.parameters())
        assert shared, "whole weights stay between forward and backward"
        (sum(losses.values()) * rank.world_size).backward()
        mean_gradients(task.model)
    results = {name: loss.detach() for name, loss in losses.items()}
    if rank.world_size > 1:
        for loss in results.values():
            dist.all_reduce(loss)
    for name, parameter in task.model.named_parameters():
        gradient = parameter.grad
        results[f"gradient {name}"] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    for name in ("adamw", "lamb"):
        build_optimizer(task.model, OptimizerConfig(name=name, lr=LR)).step()
    return results | {name: p.detach() for name, p in whole_model(task.model).named_parameters()}


if __name__ == "__main__":
    with process_group() as rank:
        results = {name: losses_and_gradients(*case) for name, case in CASES.items()}
        if rank.is_first:
            torch.save(results, Path(sys.argv[1]))
