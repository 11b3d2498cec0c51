"""Compute the cost of a run before it starts from its models' shapes: operations, hours, memory per device.

A product of (m, k) and (k, n) is 2·m·k·n operations; additions, norms and softmaxes are not counted, as usual.
Attention counts in full, causal or not. The gradient of a product is two more of the same size. Activations are what
autograd saves with fused attention, which keeps no scores; the residual stream and the inputs of norms are float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from perception_encoder.errors import ConfigError
from perception_encoder.models.config import TextConfig, VisionConfig
from perception_encoder.training.config import TrainingConfig
from perception_encoder.training.distributed import ParallelConfig

FLOAT32, BFLOAT16 = 4, 2  # bytes of an element
BATCHES = 3  # on a device: the current one, and those made in advance
WHOLE = 3  # blocks that FSDP2 gathers at a time: the current and the next one, and the gradient of the last
PLAIN = ParallelConfig()

Matrices = tuple[tuple[int, int], ...]
Trained = bool | tuple[int, str]
"""All, nothing, or adapters: their rank, and whether they adapt the matrices of "attention", of the "mlp" or "all"."""


class Product(NamedTuple):
    """A matrix product in the forward pass of one input."""

    flops: float
    trained: bool | None = True  # whether its weights are; None if it has none


@dataclass(frozen=True, kw_only=True)
class Part:
    """A model in a training step, and the cost of one of its inputs."""

    parameters: float
    trained: float
    depth: int = 0
    block_parameters: int = 0
    entry: tuple[Product, ...] = ()
    block: tuple[Product, ...] = ()
    exit: tuple[Product, ...] = ()
    inner: bool = False  # its input has a gradient, as a language model's
    block_bytes: float = 0  # activations of a block
    input_bytes: float = 0  # of them, the block's input
    end_bytes: float = 0  # activations before the first block and after the last
    count: float = 1  # inputs per sample
    beside: int = 0  # bytes per parameter of a frozen model beside the trained one, on every device

    @property
    def products(self) -> tuple[Product, ...]:
        return self.entry + self.depth * self.block + self.exit

    @property
    def forward(self) -> float:
        return sum(product.flops for product in self.products)

    def flops(self, parallel: ParallelConfig = PLAIN) -> float:
        """Return the operations forward and backward, with those that `parallel` repeats to save memory."""
        total, gradient = 0.0, self.inner
        for flops, trained in self.products:
            total += flops * (1 + gradient + (gradient if trained is None else trained))
            gradient = gradient or bool(trained)
        if gradient and parallel.checkpointing:  # nothing saves the output of the last product
            total += self.depth * sum(product.flops for product in self.block[:-1])
        if gradient and parallel.chunk:
            total += sum(product.flops for product in self.products[:-1])
        return total

    def held(self, checkpointing: bool = False) -> float:
        """Return the peak of saved bytes: all blocks', or the inputs of all but one; without gradients one block's."""
        others = self.depth - 1 if self.inner or any(product.trained for product in self.products) else 0
        return self.end_bytes + self.block_bytes + others * (self.input_bytes if checkpointing else self.block_bytes)

    def masked(self) -> Part:
        """Return the part for masked copies: a pass over whole images without gradients, and one with them."""
        tokens = replace(self, parameters=0, trained=0, exit=(Product(0),))
        return replace(tokens, entry=(Product(tokens.forward, False), *self.entry))


def transformer(
    attention: Matrices,
    mlp: Matrices,
    *,
    outside: int,
    depth: int,
    tokens: int,
    heads: int,
    train: Trained = True,
    rope: bool = False,
    scaled: bool = False,
    inner: bool = False,
    element: int = BFLOAT16,
) -> Part:
    """Return equal blocks, from the widths before and after their matrices.

    Args:
        outside: Number of the model's other parameters.
        scaled: With LayerScale.
        inner: A language model's, with RMSNorms.
        element: Bytes of a product's operands.
    """
    (width, joined), products, adapted = (attention[0][0], attention[-1][0]), list[Product](), 0
    for number, (before, after) in enumerate(attention + mlp):
        if number == len(attention) - 1:
            products.append(Product(4 * tokens**2 * joined, None))
        rank, targets = (0, "") if isinstance(train, bool) else train
        rank *= targets in ("all", "attention" if number < len(attention) else "mlp")
        # peft adds the adapter of our towers' queries, keys and values to the matrix, a sum that all inputs share
        summed = rank > 0 and number == 0 and not inner
        products.append(Product(2 * tokens * before * after, train is True or summed))
        if rank and not summed:
            products += [Product(2 * tokens * rank * before), Product(2 * tokens * rank * after)]
        adapted += depth * rank * (before + after)
    block = sum((before + (not inner)) * after for before, after in attention + mlp) + (2 if inner else 4) * width
    values = 2 * width + sum(after for _, after in attention[:-1] + mlp[:-1]) + joined + mlp[-1][0] * len(mlp[1:])
    values += 3 * joined * rope + 2 * width * scaled  # rotated queries and keys, output in two layouts; LayerScale's
    norms = 2 * FLOAT32 * (2 + (1 + inner) * width)
    parameters = outside + depth * block
    return Part(
        parameters=parameters + adapted,
        trained=adapted or parameters * (train is True),
        depth=depth,
        block_parameters=block,
        block=tuple(products),
        inner=inner,
        block_bytes=tokens * (norms + element * values + FLOAT32 * heads),
        input_bytes=FLOAT32 * tokens * width,
    )


def tower_part(
    config: VisionConfig | TextConfig, size: int | None = None, train: Trained = True, element: int = BFLOAT16
) -> Part:
    """Return a tower on square images of `size` px or texts of `size` tokens, by default the configuration's."""
    width, whole, pooling = config.width, train is True, 0
    if isinstance(config, TextConfig):
        tokens, hidden, rope, scaled = size or config.context_length, 4 * width, False, False
        entry = (Product(0, whole),)  # the table
        saved = 8 * (tokens + 2) + FLOAT32 * (width + 2) + element * width  # 8 bytes an id
    else:
        side, hidden, rope, scaled = size or config.image_size, config.mlp_width, config.rope, bool(config.layer_scale)
        patches = (side // config.patch_size) ** 2
        tokens = patches + config.class_token
        entry = (Product(2 * patches * 3 * config.patch_size**2 * width, whole),)
        saved = 3 * element * side**2 + (1 + config.final_norm) * FLOAT32 * tokens * (width + 2)
        if config.attention_pool:  # without the product of its probe, which all inputs share
            pooling = 4 * tokens * width**2 + 4 * tokens * width + 18 * width**2
            saved += element * width * (3 * tokens + 12) + 10 * FLOAT32
        else:  # in float32 the class token is saved as a view of all tokens
            saved += element * width * (tokens if element == FLOAT32 else 1)
    part = transformer(
        ((width, 3 * width), (width, width)),
        ((width, hidden), (hidden, width)),
        outside=config.parameters - config.depth * config.block_parameters,
        depth=config.depth,
        tokens=tokens,
        heads=config.heads,
        train=train,
        rope=rope,
        scaled=scaled,
        element=element,
    )
    projection = Product(2 * width * (config.output_dim or 0), whole)
    return replace(part, entry=entry, exit=(Product(pooling, whole), projection), end_bytes=saved)


def cut_tower(
    config: VisionConfig, layer: int = -1, image_size: int | None = None, layer_scale: float | None = None
) -> VisionConfig:
    """Return a tower that ends at a layer's tokens, without later blocks, norm, pooling and projection."""
    config = replace(config, depth=layer % config.depth + 1, attention_pool=False, final_norm=False, output_dim=None)
    size, scale = image_size or config.image_size, layer_scale or config.layer_scale
    return replace(config, image_size=size, layer_scale=scale)


@dataclass(frozen=True)
class Phase:
    """Steps of a run with equal models, batch and resolution."""

    image_size: int
    steps: int
    batch_size: int
    parts: Sequence[Part]
    losses: float = 0  # operations per sample
    batch: dict[str, float] = field(default_factory=dict)  # bytes of a device's share of a batch and of its losses

    def flops(self, parallel: ParallelConfig = PLAIN) -> float:
        """Return the operations of a step, with those that `parallel` repeats."""
        return self.batch_size * (self.losses + sum(part.count * part.flops(parallel) for part in self.parts))

    def memory(self, config: TrainingConfig, devices: int) -> dict[str, float]:
        """Return the peak bytes of a step on a device under bf16 autocast, by kind.

        Temporary buffers and fragmentation come on top: leave a tenth free.
        """
        parallel, moments = config.parallel, 1 if config.optimizer.name == "sgd" else 2
        shards, rows = devices if parallel.kind == "fsdp" else 1, device_rows(self.batch_size, devices)
        sizes, held = dict.fromkeys(("weights", "gradients", "optimizer"), 0.0), []
        for part in self.parts:
            if not part.beside:
                local = part.parameters - (
                    part.depth * part.block_parameters * (1 - 1 / shards) if part.parameters else 0
                )
                trained, inputs = min(part.trained, local), math.ceil(part.count * rows)
                sizes["weights"] += FLOAT32 * local + BFLOAT16 * part.parameters  # autocast copies the whole weights
                sizes["gradients"] += FLOAT32 * (trained + part.trained * (devices > shards))  # DDP's buckets
                sizes["optimizer"] += FLOAT32 * trained * moments
                held.append(min(parallel.chunk or inputs, inputs) * part.held(parallel.checkpointing))
        if shards > 1:
            sizes["weights"] += WHOLE * FLOAT32 * max(part.block_parameters for part in self.parts)
        sizes["activations"] = max(held) if parallel.chunk else sum(held)
        sizes["frozen models"] = sum(part.beside * part.parameters for part in self.parts)
        return {name: size for name, size in (sizes | self.batch).items() if size}


def device_rows(batch_size: int, devices: int) -> int:
    """Return the samples per device; ConfigError if a device has none."""
    if not 1 <= devices <= batch_size:
        raise ConfigError(f"a batch of {batch_size} cannot be shared by {devices} devices")
    return -(-batch_size // devices)


class Device(NamedTuple):
    """An accelerator, from its data sheet."""

    flops: float  # peak operations per second of dense bf16 products
    memory: float  # bytes


DEVICES = {
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
    if numbers := re.fullmatch(r"(\d+(?:\.\d+)?):(\d+(?:\.\d+)?)", name):
        return Device(float(numbers[1]) * 1e12, float(numbers[2]) * 1e9)
    if name.lower() not in DEVICES:
        raise ConfigError(f"no device is called {name!r}; use {', '.join(DEVICES)} or TFLOP/s:GB, such as 400:48")
    return DEVICES[name.lower()]


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
        if self.devices < 1 or not 0 < self.utilization <= 1 or min(self.device) <= 0:
            raise ConfigError(
                "the devices, their FLOP/s, memory and utilization must be positive, the latter at most 1"
            )

    @property
    def parameters(self) -> tuple[int, int]:
        """The parameters of the model, and how many are trained."""
        parts = [part for part in self.phases[-1].parts if not part.beside]
        return int(sum(part.parameters for part in parts)), int(sum(part.trained for part in parts))

    @property
    def flops(self) -> float:
        """Operations of the run, without repeated ones."""
        return sum(phase.steps * phase.flops() for phase in self.phases)

    def memory(self) -> dict[str, float]:
        """Return the bytes per device in the phase that needs most."""
        memories = (phase.memory(self.config, self.devices) for phase in self.phases)
        return max(memories, key=lambda sizes: sum(sizes.values()))

    @property
    def executed(self) -> float:
        """Operations of the run, with those repeated to save memory (checkpointing, chunks)."""
        return sum(phase.steps * phase.flops(self.config.parallel) for phase in self.phases)

    def hours(self) -> float:
        return self.executed / (self.devices * self.device.flops * self.utilization) / 3600

    def to_dict(self) -> dict[str, Any]:
        """Return parameters, FLOPs, phases, bytes per device, hours and assumptions."""
        shown = ("image_size", "steps", "batch_size")
        return {
            "parameters": dict(zip(("total", "trained"), self.parameters, strict=True)),
            "phases": [
                {name: getattr(phase, name) for name in shown} | {"flops_per_step": phase.flops()}
                for phase in self.phases
            ],
            "flops": self.flops,
            "memory": self.memory(),
            "devices": self.devices,
            "hours": self.hours(),
            "assumed": self.assumed,
        }
