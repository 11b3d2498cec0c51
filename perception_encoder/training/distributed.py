"""Train on several ranks with the same result as on one, and split batches that do not fit into memory.

Features are gathered with their gradients, and each rank computes its share of the loss. The shares of all ranks add up
to the loss of one process on the whole batch, and so do the gradients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from perception_encoder.models.layers import Block
from perception_encoder.ranks import ALONE, Rank
from perception_encoder.records import Checked, Count

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig(Checked):
    """How to distribute a step over ranks and fit it into memory."""

    kind: Literal["ddp", "fsdp"] = "ddp"
    """"ddp": every rank holds the model. "fsdp": transformer blocks and their optimizer state are sharded (FSDP2) and
    gathered only while they compute; every rank holds the rest."""
    chunk: Count | None = None
    """Number of images, frames or captions whose activations are in memory at a time; None for all."""
    checkpointing: bool = False
    """Recompute each block in the backward pass instead of storing its activations."""


@contextmanager
def process_group() -> Iterator[Rank]:
    """Join the processes started by torchrun until the block ends, each on its `own_device`; otherwise run alone."""
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield this_rank()
        return
    device = own_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
        dist.init_process_group("nccl", device_id=device)
    else:
        dist.init_process_group("gloo")
    try:
        yield this_rank()
        dist.barrier()  # so that gloo's threads free their tensors before Python exits: it aborts otherwise
    finally:
        dist.destroy_process_group()


def own_device() -> torch.device:
    """Return this rank's GPU on this machine by LOCAL_RANK, or the CPU without GPUs."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def parallelize(model: nn.Module, config: ParallelConfig) -> nn.Module:
    """Return a model on its device, wrapped by DDP or sharded by FSDP2, which average the ranks' gradients.

    FSDP2 gathers a block each time it runs, forward, recomputed or backward, so all ranks must run it equally often
    (`pad_rows`). The model itself is the root and holds no sharded parameters: it frees the blocks' weights after each
    run, and gathers the next block while one computes.
    """
    if this_rank() == ALONE:
        return model
    if config.kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)  # with a list of devices, it would move all inputs there
    from torch.distributed.fsdp import FSDPModule, fully_shard

    if not isinstance(model, FSDPModule):  # at an earlier resolution
        for block in [module for module in model.modules() if _is_block(module, model)]:
            fully_shard(block)
        whole = {parameter for parameter in model.parameters() if not isinstance(parameter, DTensor)}
        fully_shard(model, ignored_params=whole)
    return model


def _is_block(module: nn.Module, model: nn.Module) -> bool:
    """Return whether a module is a transformer block of this package or of a language model of transformers."""
    names = {name for part in model.modules() for name in getattr(part, "_no_split_modules", None) or ()}
    return isinstance(module, Block) or type(module).__name__ in names


def whole_model(model: M) -> M:
    """Gather a model's parameters on every rank's CPU, in place; all ranks must call it."""
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
            if whole is not parameter or whole.device.type != "cpu":
                setattr(module, name, nn.Parameter(whole.detach().cpu(), requires_grad=parameter.requires_grad))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.cpu())
    return model


def mean_gradients(model: nn.Module) -> None:
    """Average the ranks' gradients of parameters that neither DDP nor FSDP averages."""
    rank = this_rank()
    if rank == ALONE or isinstance(model, nn.parallel.DistributedDataParallel):
        return
    for parameter in model.parameters():
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            dist.all_reduce(parameter.grad)
            parameter.grad /= rank.world_size


def clip_gradients(parameters: Iterable[nn.Parameter], maximum: float) -> None:
    """Scale all gradients so that their total norm is at most `maximum`, without reading it from the device."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = [gradient.pow(2).sum() for gradient in gradients]
    total = torch.stack([s.full_tensor() if isinstance(s, DTensor) else s for s in squares]).sum().sqrt()
    factor = torch.where(total > maximum, maximum / total.double(), 1.0)
    for gradient in gradients:
        gradient.mul_(factor)


def this_rank() -> Rank:
    """Return this process's rank in the group; rank 0 of 1 without a group."""
    return Rank(rank=dist.get_rank(), world_size=dist.get_world_size()) if dist.is_initialized() else ALONE


class Exchange:
    """`exchange(value)` returns all ranks' values in order, without their devices; a background thread may call it.

    All ranks must create it, and call it equally often.
    """

    def __init__(self) -> None:
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None

    def __call__(self, value: T) -> list[T]:
        if self._group is None:
            return [value]
        values: list[T] = [value] * dist.get_world_size()
        dist.all_gather_object(values, value, group=self._group)
        return values


def own_cores() -> int:
    """Return the number of this machine's cores per local rank."""
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def gather(local: Tensor, count: int) -> Tensor:
    """Return all ranks' rows (count, …), given this rank's `share`, which keeps its gradient.

    The gradient of a row is the sum over all ranks' losses.
    """
    if this_rank() == ALONE:
        return local
    gathered: Tensor = _Gather.apply(local, count)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, count: int) -> Tensor:
        rank = this_rank()
        ctx.own = rank.share(count)
        sizes = [share.stop - share.start for share in rank.all_shares(count)]
        padded = local.new_zeros(max(sizes), *local.shape[1:])  # all_gather wants equal shapes
        padded[: len(local)] = local
        pieces = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(pieces, padded)
        return torch.cat([piece[:size] for piece, size in zip(pieces, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[ctx.own], None


def pad_rows(rows: Tensor) -> Tensor:
    """Return rows (n, …), zero-padded to the maximum number of rows of any rank; all ranks must call it."""
    if this_rank() == ALONE:
        return rows
    longest = torch.tensor(len(rows), device=own_device())
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    return torch.cat([rows, rows.new_zeros(int(longest) - len(rows), *rows.shape[1:])])


def in_chunks(encode: Callable[[Tensor], Tensor], inputs: Tensor, size: int | None) -> Tensor:
    """Return `encode(inputs)`, computed `size` rows at a time; None: all at once.

    Each chunk's activations are recomputed in the backward pass, so memory holds one chunk and all features, whatever
    the batch (gradient caching, Gao et al. 2021).
    """
    if size is None or not torch.is_grad_enabled():
        return encode(inputs)
    chunks: Sequence[Tensor] = inputs.split(size)
    return torch.cat([checkpoint(encode, chunk, use_reentrant=False) for chunk in chunks])
