"""Compute the cost of a run before it starts from its models' shapes: operations, hours, memory per device.

A product of (m, k) and (k, n) is 2·m·k·n operations; additions, norms and softmaxes are not counted, as usual.
Attention counts in full, causal or not. The gradient of a product is two more of the same size. Activations are what
autograd saves with fused attention, which keeps no scores; the residual stream and the inputs of norms are float32.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

import torch

from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.models.precision import fast_dtype
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.distributed import ParallelConfig

FLOAT32, BFLOAT16 = 4, 2  # bytes of an element
BATCHES = 3  # on a device: the current one, and those made in advance
WHOLE = 3  # blocks that FSDP2 gathers at a time: the current and the next one, and the gradient of the last

Matrices = tuple[tuple[int, int], ...]


class Adapters(Protocol):
    """Low-rank adapters beside the matrices of each block's "attention", "mlp" or "all"."""

    @property
    def rank(self) -> int: ...
    @property
    def targets(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class ModelCost:
    """Shape of a model's transformer blocks and the cost of one input; a head has no blocks."""

    parameters: int
    block_parameters: int = 0
    depth: int = 0
    tokens: int = 0
    span: float = 0  # tokens that a token attends to, on average
    padded: float = 1  # factor of the tokens of attention that pad windows
    heads: int = 0
    attention: Matrices = ((0, 0),)  # width before and after each product of a block
    mlp: Matrices = ((0, 0),)
    rope: bool = False
    scaled: bool = False  # with LayerScale
    inner: bool = False  # a language model's: its input has a gradient, and its norms are RMSNorms
    embedding: float = 0  # operations from patches to tokens; their input needs no gradient
    head: float = 0  # operations of pooling and projection, except the probe's product, which all inputs share
    end: float = 0  # operations of the last product of `head`, which is not recomputed
    ends: float = 0  # bytes saved before the first block and after the last
    element: int = BFLOAT16  # bytes of the inputs and outputs of products

    def products(self, matrices: Matrices) -> int:
        """Return the operations of matrix products."""
        return 2 * self.tokens * sum(before * after for before, after in matrices)

    @property
    def scores(self) -> float:
        """Operations of a block's attention scores and sums, which have no weights."""
        return 4 * self.tokens * self.span * self.attention[-1][0]

    @property
    def block(self) -> float:
        """Operations of a block's forward pass."""
        return self.padded * self.products(self.attention) + self.products(self.mlp) + self.scores

    @property
    def forward(self) -> float:
        """Operations of the forward pass."""
        return self.embedding + self.depth * self.block + self.head

    def training(self, adapters: Adapters | None = None, frozen: bool = False) -> float:
        """Return forward and backward operations; with `adapters` only they are trained, if `frozen` nothing is.

        A frozen matrix costs two products instead of three, as it has no gradient. Our towers' queries, keys and values
        have one: peft adds their adapter to the matrix. That sum, which all inputs share, is not counted.
        """
        if adapters is None and not frozen:
            return 3 * self.forward - self.embedding
        if adapters is None and not self.inner:
            return self.forward
        blocks = self.depth * (2 * self.block + self.scores + 6 * self.tokens * self.block_adapters(adapters, True))
        if adapters is None or self.inner:
            return blocks + 2 * self.head
        if adapters.targets != "mlp":
            blocks += (self.depth - 1) * self.products(self.attention[:1])  # the first block's input needs none
        else:  # nor does anything before its feed-forward's first adapter
            before = self.products(self.attention + self.mlp[:1]) + 2 * self.scores
            blocks -= before + 2 * self.tokens * adapters.rank * self.mlp[0][0]
        return self.embedding + blocks + 2 * self.head

    def recomputed(self, parallel: ParallelConfig, adapters: Adapters | None = None) -> float:
        """Return the operations recomputed to save memory, of blocks, chunks or both."""
        extra, last = 2 * self.tokens * self.block_adapters(adapters, True), self.products(self.mlp[-1:])
        if adapters is not None and adapters.targets != "attention":
            last = 2 * self.tokens * adapters.rank * self.mlp[-1][1]
        again = self.depth * (self.block + extra - last) if parallel.checkpointing else 0
        return again + (self.forward + self.depth * extra - self.end if parallel.chunk else 0)

    def block_adapters(self, adapters: Adapters | None, run: bool = False) -> int:
        """Return the parameters of a block's adapters; with `run`, only of those applied to inputs."""
        attention = self.attention if self.inner or not run else self.attention[1:]
        matrices = {"attention": attention, "mlp": self.mlp, "all": attention + self.mlp}
        return adapters.rank * sum(map(sum, matrices[adapters.targets])) if adapters else 0

    def held(self, checkpointing: bool = False) -> float:
        """Return the peak of saved bytes; with checkpointing, each block's input and one whole block."""
        (width, _), after = self.attention[0], sum(after for _, after in self.attention[:-1] + self.mlp[:-1])
        values = 2 * width + after + self.attention[-1][0] + self.mlp[-1][0] * len(self.mlp[1:])
        values += (
            self.attention[-1][0] * 3 if self.rope else 0
        )  # rotated queries and keys; attention output in two layouts
        values += 2 * width if self.scaled else 0  # inputs of LayerScale
        norms = 2 * FLOAT32 * (2 + (2 if self.inner else 1) * width)
        block = self.tokens * (norms + self.element * values + FLOAT32 * self.heads)
        entry = FLOAT32 * self.tokens * width if checkpointing else block
        return self.ends + (block + (self.depth - 1) * entry if self.depth else 0)


def vision_cost(config: VisionConfig, image_size: int | None = None, element: int = BFLOAT16) -> ModelCost:
    """Return the cost of one square image of `image_size` px, by default the configuration's."""
    side, width = image_size or config.image_size, config.width
    patches, head = (side // config.patch_size) ** 2, 2 * width * (config.output_dim or 0)
    cost = _tower_cost(config, patches + int(config.class_token), config.mlp_width, head, element)
    if config.attention_pool:
        head += 4 * cost.tokens * width**2 + 4 * cost.tokens * width + 18 * width**2
        pooled = element * width * (3 * cost.tokens + 11) + 8 * FLOAT32 + _norm(1, width, element)
    else:  # in float32 the class token is saved as a view of all tokens
        pooled = element * width * (cost.tokens if element == FLOAT32 else 1)
    return replace(
        cost,
        rope=config.rope,
        scaled=config.layer_scale is not None,
        embedding=2 * patches * 3 * config.patch_size**2 * width,
        head=head,
        ends=3 * element * side**2 + (1 + config.final_norm) * _norm(cost.tokens, width, FLOAT32) + pooled,
    )


def text_cost(config: TextConfig, length: int | None = None, element: int = BFLOAT16) -> ModelCost:
    """Return the cost of one text of `length` tokens, by default the context."""
    tokens, width = length or config.context_length, config.width
    cost = _tower_cost(config, tokens, 4 * width, 2 * width * config.output_dim, element)
    return replace(cost, ends=8 * (tokens + 2) + _norm(1, width, FLOAT32) + element * width)  # 8: the ids


def _tower_cost(
    config: VisionConfig | TextConfig, tokens: int, hidden: int, projection: int, element: int
) -> ModelCost:
    width = config.width
    return ModelCost(
        parameters=config.parameters,
        block_parameters=config.block_parameters,
        depth=config.depth,
        tokens=tokens,
        span=tokens,
        heads=config.heads,
        attention=((width, 3 * width), (width, width)),
        mlp=((width, hidden), (hidden, width)),
        head=projection,
        end=projection,
        element=element,
    )


def _norm(tokens: int, width: int, element: int) -> int:
    """Return the bytes of a LayerNorm's input, mean and deviation."""
    return element * tokens * width + 2 * FLOAT32 * tokens


def cut_tower(
    config: VisionConfig, layer: int = -1, image_size: int | None = None, layer_scale: float | None = None
) -> VisionConfig:
    """Return a tower that ends at a layer's tokens, without later blocks, norm, pooling and projection."""
    return replace(
        config,
        depth=layer % config.depth + 1,
        image_size=image_size or config.image_size,
        layer_scale=layer_scale or config.layer_scale,
        attention_pool=False,
        final_norm=False,
        output_dim=None,
    )


@dataclass(frozen=True)
class StepModel:
    """A model in a training step."""

    cost: ModelCost
    count: float = 1  # inputs per sample
    trained: bool = True
    adapters: Adapters | None = None  # only they are trained
    masked: bool = False  # masked copies: a pass over whole images without gradients, and one with them
    beside: int = 0  # bytes per parameter of a frozen model beside the trained one, on every device

    def flops(self, parallel: ParallelConfig | None = None) -> float:
        """Return the operations per sample, forward and backward; with `parallel` including recomputation."""
        cost = replace(self.cost, head=0, end=0) if self.masked else self.cost
        flops = cost.training(self.adapters, not self.trained) + (cost.forward if self.masked else 0)
        if parallel and (self.trained or cost.inner):
            flops += cost.recomputed(parallel, self.adapters) + (cost.forward if self.masked and parallel.chunk else 0)
        return self.count * flops

    @property
    def parameters(self) -> tuple[int, int]:
        """Parameters of this model in the run, and how many are trained."""
        if self.masked or self.beside:
            return 0, 0
        adapters = self.cost.depth * self.cost.block_adapters(self.adapters)
        total = self.cost.parameters + adapters
        return total, adapters or (total if self.trained else 0)

    def memory(self, moments: int, shards: int, ddp: bool) -> dict[str, float]:
        """Return the bytes of weights, gradients and optimizer state; blocks are sharded over `shards` devices."""
        total, trained = self.parameters
        local = total - (self.cost.depth * self.cost.block_parameters * (1 - 1 / shards) if total else 0)
        return {
            "weights": FLOAT32 * local + BFLOAT16 * total,  # autocast copies the whole weights
            "frozen models": float(self.beside * self.cost.parameters),
            "gradients": FLOAT32 * (min(trained, local) + trained * ddp),  # DDP sums them in buckets of the same size
            "optimizer": FLOAT32 * min(trained, local) * moments,
        }

    def held(self, rows: int, parallel: ParallelConfig) -> float:
        """Return the bytes of activations of `rows` samples; without gradients those of one block."""
        inputs, cost = math.ceil(self.count * rows), self.cost
        cost = cost if self.trained or cost.inner else replace(cost, depth=1)
        return 0 if self.beside else min(parallel.chunk or inputs, inputs) * cost.held(parallel.checkpointing)


@dataclass(frozen=True)
class Phase:
    """Steps of a run with equal models, batch and resolution."""

    image_size: int
    steps: int
    batch_size: int
    parts: tuple[StepModel, ...]
    losses: float = 0  # operations per sample
    batch: dict[str, float] = field(default_factory=dict)  # bytes of a device's share of a batch and of its losses

    def flops(self, parallel: ParallelConfig | None = None) -> float:
        """Return the operations of a step; with `parallel` including recomputation."""
        return self.batch_size * (self.losses + sum(part.flops(parallel) for part in self.parts))

    def memory(self, config: TrainingConfig, devices: int) -> dict[str, float]:
        """Return the peak bytes of a step on a device under bf16 autocast, by kind.

        Temporary buffers and fragmentation come on top: leave a tenth free.
        """
        parallel, moments = config.parallel, 1 if config.optimizer.name == "sgd" else 2
        shards = devices if parallel.kind == "fsdp" else 1
        parts = [part.memory(moments, shards, devices > shards) for part in self.parts]
        sizes = {name: sum(part[name] for part in parts) for name in parts[0]}
        if shards > 1:
            sizes["weights"] += WHOLE * FLOAT32 * max(part.cost.block_parameters for part in self.parts)
        held = [part.held(device_rows(self.batch_size, devices), parallel) for part in self.parts]
        sizes["activations"] = float(max(held) if parallel.chunk else sum(held))
        return {name: size for name, size in (sizes | self.batch).items() if size}


def device_rows(batch_size: int, devices: int) -> int:
    """Return the samples per device; ConfigError if a batch has fewer samples than devices."""
    if batch_size < devices:
        raise ConfigError(f"a batch of {batch_size} cannot be shared by {devices} devices")
    return -(-batch_size // devices)


@dataclass(frozen=True)
class TrainingPlan:
    """The cost of a run on a number of devices."""

    config: TrainingConfig
    phases: Sequence[Phase]
    assumed: str  # what no formula gives
    device: Device
    devices: int
    utilization: float = 0.4  # achieved share of the peak; recomputation counts as work

    def __post_init__(self) -> None:
        if self.devices < 1 or not 0 < self.utilization <= 1 or min(self.device.flops, self.device.memory) <= 0:
            raise ConfigError(
                f"{self.devices} devices with {self.device.flops:g} FLOP/s and {self.device.memory:g} bytes, "
                f"utilization {self.utilization:g}: all must be positive, and utilization at most 1"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return parameters, phases, bytes per device, hours and assumptions."""
        total, trained = self.parameters
        phases = [
            {
                "image_size": phase.image_size,
                "steps": phase.steps,
                "batch_size": phase.batch_size,
                "flops_per_step": phase.flops(),
                "hours": self.hours(phase),
            }
            for phase in self.phases
        ]
        return {
            "parameters": {"total": total, "trained": trained},
            "phases": phases,
            "memory": self.memory(),
            "devices": self.devices,
            "hours": self.hours(),
            "assumed": self.assumed,
        }

    @property
    def parameters(self) -> tuple[int, int]:
        """The parameters of the model, and how many are trained."""
        total, trained = zip(*(part.parameters for part in self.phases[-1].parts), strict=True)
        return sum(total), sum(trained)

    def memory(self, *phases: Phase) -> dict[str, float]:
        """Return the bytes per device in the phase that needs most."""
        memories = [phase.memory(self.config, self.devices) for phase in phases or self.phases]
        return max(memories, key=lambda sizes: sum(sizes.values()))

    def hours(self, *phases: Phase) -> float:
        """Return the duration of phases, by default of all."""
        executed = sum(phase.steps * phase.flops(self.config.parallel) for phase in phases or self.phases)
        return executed / (self.devices * self.device.flops * self.utilization) / 3600


@dataclass(frozen=True)
class RunCost:
    """Cost of a run in progress, for reports of utilization and remaining time."""

    flops: Callable[[Any], float]
    """Operations of this rank's share of a batch, forward and backward, without recomputation."""
    phases: Sequence[tuple[int, float]]
    """Steps, and operations per step."""

    def share(self, steps: int) -> float:
        """Return the finished share of the run's work after a number of steps."""
        done, left = 0.0, steps
        for count, work in self.phases:
            done, left = done + work * min(left, count), max(left - count, 0)
        return done / sum(count * work for count, work in self.phases)


@dataclass(frozen=True)
class Device:
    """One accelerator."""

    flops: float
    """Peak operations per second of dense bf16 products, from the data sheet."""
    memory: float
    """Bytes."""


DEVICES: dict[str, Device] = {
    "a100-40gb": Device(312e12, 40e9),
    "a100-80gb": Device(312e12, 80e9),
    "h100": Device(989e12, 80e9),
    "h200": Device(989e12, 141e9),
    "b200": Device(2250e12, 180e9),
    "l40s": Device(362e12, 48e9),
    "mi300x": Device(1307e12, 192e9),
    "rtx-4090": Device(165e12, 24e9),
}


def find_device(name: str) -> Device:
    """Return a device from the table, or one given as "TFLOP/s:GB"; ConfigError lists the table."""
    numbers = re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", name)
    if numbers:
        return Device(float(numbers[1]) * 1e12, float(numbers[2]) * 1e9)
    if name.lower() not in DEVICES:
        near = difflib.get_close_matches(name.lower(), DEVICES, n=1)
        hint = (
            f"did you mean {near[0]}?"
            if near
            else f"known devices: {', '.join(DEVICES)}; or give TFLOP/s:GB, such as 400:48"
        )
        raise ConfigError(f"no device is called {name!r}; {hint}")
    return DEVICES[name.lower()]


def known_device(full_name: str) -> Device | None:
    """Return the device in the table for a driver's name, such as "NVIDIA A100-SXM4-80GB"."""
    words = full_name.lower()
    return next((device for name, device in DEVICES.items() if all(w in words for w in name.split("-"))), None)


@lru_cache(maxsize=8)
def peak_flops(device: torch.device) -> float:
    """Return the operations per second of matrix products in training's dtype: from the table, or measured."""
    known = known_device(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    if known:
        return known.flops
    side, best = 1024 if device.type == "cpu" else 8192, float("inf")
    with torch.no_grad():
        a, b = (torch.ones(side, side, dtype=fast_dtype(device), device=device) for _ in range(2))
        for _ in range(5):  # the first one includes set-up
            start = time.perf_counter()
            (a @ b)[0, 0].item()  # waits for it
            best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best
