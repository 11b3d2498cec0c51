"""Costs from formulas are what torch counts, exactly: parameters, forward, backward, and what is computed once more."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.pairs import Stage
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.models.checkpoints.weights import build
from perception_encoder.models.clip import CLIP
from perception_encoder.models.config import VisionConfig
from perception_encoder.models.registry import MODELS
from perception_encoder.planning.cluster import Cluster
from perception_encoder.planning.cost import (
    TeacherCost,
    contrastive_flops,
    text_cost,
    training_flops,
    vision_cost,
)
from perception_encoder.planning.devices import Device
from perception_encoder.pretraining.config import PretrainingConfig, tower_configs
from perception_encoder.pretraining.cost import RunCost
from perception_encoder.pretraining.plan import plan_pretraining
from perception_encoder.pretraining.run import build_model
from perception_encoder.pretraining.towers import Towers
from perception_encoder.train.distributed import in_chunks
from tests.models.small import CORE, KINDS, TEXT, small_clip, small_tower

BATCH, LENGTH = 3, 5
PROBE = 3 * 2 * CORE.width**2  # the product of the probe's query, forward and backward: once a call, not a picture
CLASS_POOLED = dataclasses.replace(CORE, attention_pool=False)
CONFIG = PretrainingConfig(
    model="builtin", stages=(Stage(image_size=32, steps=10), Stage(image_size=64, steps=5, batch_size=8)), batch_size=16
)
RUN_VISION, RUN_TEXT = tower_configs(CONFIG)
CLUSTER = Cluster(device=Device(flops=1e12, memory=1e9), devices=4, utilization=0.5)


def count(work: Callable[[], object]) -> int:
    """Operations that torch counts; on a CPU it knows the plain attention of training, not the fused one."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def pixels(size: int) -> Tensor:
    return torch.zeros(BATCH, 3, size, size)


@pytest.mark.parametrize("name", MODELS)
def test_parameters_are_those_of_the_model(name: str) -> None:
    entry = MODELS[name]
    model = build(entry)
    total = sum(p.numel() for p in model.parameters())
    text = 0 if entry.text is None else entry.text.parameters + 1  # the logit scale
    assert entry.vision.parameters + text == total
    assert entry.download_bytes in (0, 4 * total) and (entry.download_bytes == 0) == (entry.builtin is not None)


@pytest.mark.parametrize("config", [*KINDS.values(), CLASS_POOLED], ids=[*KINDS, "class token pooled"])
@pytest.mark.parametrize("size", [32, 64])
def test_a_forward_pass_over_images(config: VisionConfig, size: int) -> None:
    tower = small_tower(config)
    shared = PROBE // 3 if config.attention_pool else 0
    assert count(lambda: tower(pixels(size))) == BATCH * vision_cost(config, size).forward + shared


@pytest.mark.parametrize(("checkpointing", "chunk"), [(False, None), (True, None), (False, 1), (True, 1)])
@pytest.mark.parametrize("config", [CORE, CLASS_POOLED], ids=["attention pooled", "class token pooled"])
def test_training_on_images(config: VisionConfig, checkpointing: bool, chunk: int | None) -> None:
    tower, cost = small_tower(config), vision_cost(config, 48)
    tower.set_grad_checkpointing(checkpointing)
    calls = 1 if chunk is None else BATCH
    again = 0 if chunk is None else PROBE // 3
    shared = calls * (PROBE + again) if config.attention_pool else 0
    expected = BATCH * (cost.training() + cost.recomputed(checkpointing, chunk is not None)) + shared
    assert count(lambda: in_chunks(tower, pixels(48), chunk).sum().backward()) == expected


@pytest.mark.parametrize(("checkpointing", "chunk"), [(False, None), (True, None), (False, 1), (True, 1)])
def test_training_on_texts(checkpointing: bool, chunk: int | None) -> None:
    tower, cost = small_clip().text, text_cost(TEXT, LENGTH)
    tower.set_grad_checkpointing(checkpointing)
    tokens = torch.ones(BATCH, LENGTH, dtype=torch.int64)
    expected = BATCH * (cost.training() + cost.recomputed(checkpointing, chunk is not None))
    assert count(lambda: in_chunks(tower, tokens, chunk).sum().backward()) == expected


@pytest.mark.parametrize(("checkpointing", "chunk"), [(False, None), (True, None), (False, 1), (True, 1)])
def test_a_masked_copy(checkpointing: bool, chunk: int | None) -> None:
    clip, cost = small_clip(), vision_cost(CORE)
    clip.set_grad_checkpointing(checkpointing)
    towers = Towers(clip, masked=True, chunk=chunk)
    pictures = torch.zeros(BATCH, 3, 32, 32, dtype=torch.uint8)
    masks = (torch.arange(16) < 6).expand(BATCH, 16)
    whole = CORE.depth * 4 * 17**2 * CORE.width  # attention without gradients is fused, which torch does not count
    unseen = BATCH * whole * (1 if chunk is None else 2)
    expected = BATCH * (cost.masked_training() + cost.masked_recomputed(checkpointing, chunk is not None)) - unseen
    assert count(lambda: towers._mask_loss(pictures, masks, towers.mask_token, len(masks)).backward()) == expected


def test_the_contrastive_loss() -> None:
    images, texts = (torch.randn(6, 16, requires_grad=True) for _ in range(2))
    positives = torch.eye(6, dtype=torch.bool)
    total = count(lambda: contrastive_loss(images, texts, torch.tensor(10.0), positives, positives).backward())
    assert total == 6 * contrastive_flops(6, 16)


def test_a_pair_is_its_image_its_text_and_its_share_of_masked_copies() -> None:
    vision, text = vision_cost(CORE, 64), text_cost(TEXT, LENGTH)
    total = training_flops(CORE, TEXT, image_size=64, length=LENGTH, masked=1 / 16)
    assert total == vision.training() + text.training() + vision.masked_training() / 16


def whole_model() -> CLIP:
    """The model of the run at its own resolution, which plans are for; the run draws positions at its first one."""
    model = build_model(CONFIG)
    model.visual.set_image_size(RUN_VISION.image_size)
    return model


def test_a_teacher_s_passes_come_on_top() -> None:
    """Its passes as torch counts them, of what it is shown and no more; in the plan as often a pair as is said."""
    model = whole_model()
    teacher = TeacherCost(RUN_VISION, RUN_TEXT, images=0.5)
    teacher.watch(model)
    pair = vision_cost(RUN_VISION).forward / 2 + text_cost(RUN_TEXT).forward
    with_it = plan_pretraining(CONFIG, CLUSTER, teacher).stages[0]
    assert with_it.flops == plan_pretraining(CONFIG, CLUSTER).stages[0].flops + 160 * pair
    assert with_it.memory["teacher"] == 2 * (sum(p.numel() for p in model.parameters()) - 1)
    assert with_it.memory["images"] == 3 * 3 * 4 * 128**2  # large enough for the teacher
    with FlopCounterMode(display=False) as counter:  # with gradients, as torch knows no operations of fused attention
        model.encode_image(torch.zeros(2, 3, 64, 64))
        model.encode_text(torch.ones(3, 5, dtype=torch.int64))
    assert teacher.take() == counter.get_total_flops() - 2 * RUN_VISION.width**2 and teacher.take() == 0
    pictures, truth = torch.zeros(4, 3, 128, 128, dtype=torch.uint8), torch.ones(4, 4, dtype=torch.bool)
    batch = ImageTextBatch(pictures, torch.ones(4, 5, dtype=torch.int64), truth, truth)
    small = dataclasses.replace(RUN_VISION, image_size=64)
    alone = ImageTextBatch(pictures[..., :64, :64], batch.tokens, truth, truth)
    model.encode_image(torch.zeros(1, 3, 128, 128))
    own = RunCost(CONFIG, RUN_VISION, RUN_TEXT).flops(alone)  # of a student of 64 px
    assert RunCost(CONFIG, small, RUN_TEXT, teacher=teacher).flops(batch) == own + vision_cost(RUN_VISION).forward
