"""Costs from formulas are what torch counts and autograd saves, exactly: also backward, and what is computed again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import perception_encoder as pe
from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.errors import ConfigError
from perception_encoder.losses.pretraining import contrastive_loss
from perception_encoder.models.checkpoints.weights import build
from perception_encoder.models.clip import TextTransformer
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.registry import MODELS
from perception_encoder.models.vision_transformer import VisionTransformer
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.recipes import contrastive_flops
from perception_encoder.pretraining.towers import TrainingTowers
from perception_encoder.training.cost import Device, Part, Phase, TrainingPlan, tower_part
from perception_encoder.training.distributed import ParallelConfig, in_chunks
from perception_encoder.training.optimizer import OptimizerConfig
from tests.models.small import CORE, KINDS, TEXT, randomize, small_clip, small_tower

BATCH, LENGTH = 3, 5
PROBE = 3 * 2 * CORE.width**2  # the product of the probe's query, forward and backward: once a call, not a picture
CLASS_POOLED = dataclasses.replace(CORE, attention_pool=False)
SIZE = 136  # 17 x 17 patches: so many that attention is the fused kernel's on a CPU too
LONG = dataclasses.replace(TEXT, context_length=300)
TYPES = {2: torch.bfloat16, 4: torch.float32}
CONFIG = PretrainingConfig(model="builtin", stages=(ResolutionStage(image_size=32, steps=10),), batch_size=16)
DEVICE = Device(1e12, 1e9)
SAVINGS = pytest.mark.parametrize(("checkpointing", "chunk"), [(False, None), (True, None), (False, 1), (True, 1)])


def count(work: Callable[[], object]) -> int:
    """Operations that torch counts; on a CPU it knows the plain attention of training, not the fused one."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def pixels(size: int) -> Tensor:
    return torch.zeros(BATCH, 3, size, size)


def test_parameters_are_those_of_the_model() -> None:
    for name, entry in MODELS.items():
        total = sum(p.numel() for p in build(entry).parameters())
        text = 0 if entry.text is None else entry.text.parameters + 1  # the logit scale
        assert entry.vision.parameters + text == total, name
        assert entry.download_bytes in (0, 4 * total) and (entry.download_bytes == 0) == (entry.builtin is not None)


@pytest.mark.parametrize("config", [*KINDS.values(), CLASS_POOLED], ids=[*KINDS, "class token pooled"])
@pytest.mark.parametrize("size", [64])
def test_a_forward_pass_over_images(config: VisionConfig, size: int) -> None:
    tower = small_tower(config)
    shared = PROBE // 3 if config.attention_pool else 0
    assert count(lambda: tower(pixels(size))) == BATCH * tower_part(config, size).forward + shared


@SAVINGS
@pytest.mark.parametrize("config", [CORE, CLASS_POOLED], ids=["attention pooled", "class token pooled"])
def test_training_on_images(config: VisionConfig, checkpointing: bool, chunk: int | None) -> None:
    tower = small_tower(config)
    tower.set_grad_checkpointing(checkpointing)
    calls = 1 if chunk is None else BATCH
    shared = calls * (PROBE + (0 if chunk is None else PROBE // 3)) if config.attention_pool else 0
    expected = BATCH * tower_part(config, 48).flops(ParallelConfig(checkpointing=checkpointing, chunk=chunk)) + shared
    assert count(lambda: in_chunks(tower, pixels(48), chunk).sum().backward()) == expected


@SAVINGS
def test_training_on_texts(checkpointing: bool, chunk: int | None) -> None:
    tower = small_clip().text
    tower.set_grad_checkpointing(checkpointing)
    tokens = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    expected = BATCH * tower_part(TEXT, LENGTH).flops(ParallelConfig(checkpointing=checkpointing, chunk=chunk))
    assert count(lambda: in_chunks(tower, tokens, chunk).sum().backward()) == expected


@SAVINGS
def test_a_masked_copy(checkpointing: bool, chunk: int | None) -> None:
    clip = small_clip()
    clip.set_grad_checkpointing(checkpointing)
    towers = TrainingTowers(clip, masked=True, chunk=chunk)
    pictures = torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8)
    masks = (torch.arange(16) < 6).expand(BATCH, 16)
    whole = CORE.depth * 4 * 17**2 * CORE.width  # attention without gradients is fused, which torch does not count
    unseen = BATCH * whole * (1 if chunk is None else 2)
    part = tower_part(CORE).masked()
    expected = BATCH * part.flops(ParallelConfig(checkpointing=checkpointing, chunk=chunk)) - unseen
    assert count(lambda: towers._mask_loss(pictures, masks, towers.mask_token, len(masks)).backward()) == expected


def test_the_contrastive_loss() -> None:
    images, texts = (torch.randn(6, 16, requires_grad=True) for _ in range(2))
    positives = torch.eye(6, dtype=torch.bool)
    total = count(lambda: contrastive_loss(images, texts, torch.tensor(10.0), positives, positives).backward())
    assert total == 6 * contrastive_flops(6, dataclasses.replace(CORE, output_dim=16))


def saved(model: nn.Module, inputs: Tensor, size: int) -> int:
    """Bytes of all distinct memory that autograd saves in a forward pass, but for the parameters."""
    parameter_storages = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in parameter_storages:
            storages[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no other takes its address
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=size == 2),
    ):
        output = model(inputs)
    assert output.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values())


def saved_of_one(model: nn.Module, make: Callable[[int], Tensor], size: int) -> int:
    """What each further input adds: copies of weights and tables that all inputs share do not count."""
    return saved(model, make(3), size) - saved(model, make(2), size)


@pytest.mark.parametrize("size", TYPES)
@pytest.mark.parametrize("config", [*KINDS.values(), CLASS_POOLED], ids=[*KINDS, "class token pooled"])
def test_images(config: VisionConfig, size: int) -> None:
    if config.output_dim is None:
        config = dataclasses.replace(config, attention_pool=True, output_dim=8)
    tower = VisionTransformer(config)
    randomize(tower)
    saved_bytes = saved_of_one(tower, lambda count: torch.randn(count, 3, SIZE, SIZE), size)
    assert saved_bytes == tower_part(config, SIZE, element=size).held()


@pytest.mark.parametrize("size", TYPES)
def test_texts(size: int) -> None:
    tower = TextTransformer(LONG)
    randomize(tower)
    saved_bytes = saved_of_one(tower, lambda count: torch.ones(count, 300, dtype=torch.int64), size)
    assert saved_bytes == tower_part(LONG, element=size).held()


@pytest.mark.parametrize("size", TYPES)
def test_checkpointing_keeps_every_block_s_input(size: int) -> None:
    """And, while a block is gone through backwards, that block whole."""
    tower = VisionTransformer(CORE)
    randomize(tower)
    tower.set_grad_checkpointing()
    saved_bytes = saved_of_one(tower, lambda count: torch.randn(count, 3, SIZE, SIZE), size)
    part = tower_part(CORE, SIZE, element=size)
    assert saved_bytes == part.end_bytes + CORE.depth * part.input_bytes
    assert part.held(checkpointing=True) == saved_bytes + part.block_bytes - part.input_bytes


def toy_plan(parts: Sequence[Part], devices: int, **changes: object) -> TrainingPlan:
    phase = Phase(32, 10, 8, tuple(parts))
    return TrainingPlan(dataclasses.replace(CONFIG, **changes), [phase], "", DEVICE, devices)


def test_memory_of_parameters_by_what_is_trained_and_shared() -> None:
    """Blocks and their optimizer state are shared out, all else is on every device; SGD has one moment."""
    part, frozen = tower_part(CORE), tower_part(CORE, train=False)
    total, blocks = part.parameters, CORE.depth * part.block_parameters
    parts = [part, frozen, dataclasses.replace(frozen, beside=2)]
    alone, ddp = toy_plan(parts, 1).memory(), toy_plan(parts, 4).memory()
    assert toy_plan(parts, 1).parameters == (2 * total, total)
    copies = 2 * 2 * total  # in bf16
    assert (alone["weights"], alone["frozen models"]) == (8 * total + copies, 2 * total)
    assert (alone["gradients"], ddp["gradients"], alone["optimizer"]) == (4 * total, 8 * total, 8 * total)
    assert alone["activations"] == 8 * (part.held() + part.end_bytes + part.block_bytes)  # frozen: a block's
    sgd = OptimizerConfig(name="sgd")
    fsdp = toy_plan(parts, 4, parallel=ParallelConfig(kind="fsdp"), optimizer=sgd).memory()
    held = total - blocks * 3 / 4
    assert fsdp["weights"] == 8 * held + copies + 3 * 4 * part.block_parameters  # three blocks are whole at a time
    assert (fsdp["gradients"], fsdp["optimizer"], fsdp["frozen models"]) == (4 * held, 4 * held, 2 * total)


def test_a_batch_has_a_sample_for_each_device() -> None:
    with pytest.raises(ConfigError, match="a batch of 8 cannot be shared by 9"):
        toy_plan([tower_part(CORE)], 9).memory()
    with pytest.raises(ConfigError, match="a batch of 8 cannot be shared by 0"):
        pe.plan("finetune", devices=0, batch_size=8)
