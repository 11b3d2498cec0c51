"""What a run is said to cost: against hand-computed figures, torch's own counts, and what a loss really keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.pairs import ImageTextBatch, Stage
from perception_encoder.losses.pretraining import contrastive_loss
from perception_encoder.models.clip import CLIP
from perception_encoder.pretraining import STAGE
from perception_encoder.pretraining.config import LoRA, MaskRegularization, PretrainingConfig, tower_configs
from perception_encoder.pretraining.recipes import contrastive_flops, core, pair_parts, plan_pretraining
from perception_encoder.pretraining.run import build_model
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers, add_adapters
from perception_encoder.stages import plan_training
from perception_encoder.training.cost import Device, Phase, find_device, tower_part
from perception_encoder.training.distributed import ParallelConfig

CONFIG = PretrainingConfig(
    model="builtin", stages=(Stage(image_size=32, steps=10), Stage(image_size=64, steps=5)), batch_size=16
)
VISION, TEXT = tower_configs(CONFIG)
DEVICE = Device(1e12, 1e9)


def whole_model() -> CLIP:
    """The model of the run at its own resolution, which plans are for; the run draws positions at its first one."""
    model = build_model(CONFIG)
    model.visual.set_image_size(VISION.image_size)
    return model


def phases(**changes: object) -> list[Phase]:
    return plan_pretraining(dataclasses.replace(CONFIG, **changes))[0]


def memory(devices: int, **changes: object) -> dict[str, float]:
    config = dataclasses.replace(CONFIG, **changes)
    return plan_pretraining(config, devices)[0][0].memory(config, devices)


def test_a_batch_costs_what_torch_counts() -> None:
    config = dataclasses.replace(CONFIG, masking=MaskRegularization(every=4))
    task = ContrastiveTask(Towers(build_model(config), masked=True))
    images = torch.zeros(8, 3, 32, 32, dtype=torch.uint8)
    rows, masks = MaskRegularization(every=4).draw(8, 4, torch.Generator())
    tokens = torch.full((6, 5), 3)
    tokens[:, -1] = 9  # all of one length, so that all groups are
    positives = torch.ones(8, 6, dtype=torch.bool)
    batch = ImageTextBatch(images, tokens, positives, positives.T, masked=rows, masks=masks, masked_share=1.0)
    with FlopCounterMode(display=False) as counter:
        sum(task.losses(batch).values()).backward()
    probe = 3 * 2 * VISION.width**2  # once a call
    unseen = VISION.depth * 4 * 5**2 * VISION.width * len(rows)  # fused attention of the pass without gradients
    loss = 12 * 8 * 6 * 256
    seen, read, copies = pair_parts(config, VISION, TEXT, 32, 5)
    total = 8 * seen.flops() + 6 * read.flops() + 8 * copies.count * copies.flops()
    assert counter.get_total_flops() - probe + unseen - loss == total


def test_stages_and_hours_are_those_of_the_formulas() -> None:
    plan = plan_training(STAGE, CONFIG, DEVICE, 4, 0.5)
    first, second = plan.phases
    assert (first.steps, first.batch_size, second.steps, second.batch_size) == (10, 16, 5, 16)
    pair = tower_part(VISION, 64).flops() + tower_part(TEXT).flops() + 12 * 16 * 256
    assert second.flops() == second.flops(CONFIG.parallel) == 16 * pair
    assert plan.flops == 10 * first.flops() + 80 * pair
    assert plan.hours() == pytest.approx(plan.flops / 1e12 / 0.5 / 4 / 3600)
    parameters = sum(p.numel() for p in whole_model().parameters()) - 1  # the scale of the logits
    assert plan.parameters == (parameters, parameters)


def test_videos_masked_copies_and_a_locked_tower() -> None:
    def flops(**changes: object) -> float:
        return phases(**changes)[0].flops() / 16

    image, text, plain = tower_part(VISION, 32), tower_part(TEXT), flops()
    assert flops(frames=8) == plain + 7 * image.flops()
    assert flops(masking=MaskRegularization(every=4)) == plain + image.masked().flops() / 4
    assert flops(locked="visual") == plain - (image.flops() - image.forward)
    assert flops(locked="text") == plain - (text.flops() - text.forward)


def test_core_g_fits_512_h100s() -> None:
    plan = plan_training(STAGE, core("g14"), find_device("h100"), 512)
    assert sum(plan.memory().values()) < 0.9 * 80e9
    assert sum(phase.steps * phase.batch_size for phase in plan.phases) == 656_000 * 131_072
    alone = dataclasses.replace(core("g14"), parallel=ParallelConfig())
    assert sum(plan_training(STAGE, alone, find_device("h100"), 512).memory().values()) > 80e9


def test_the_loss_keeps_two_matrices_each_way() -> None:
    """Of the seven that the plan counts; the others are in passing."""
    shared = memory(4, parallel=ParallelConfig(kind="fsdp"))
    assert shared["images"] == 3 * 3 * 4 * 32**2  # of three batches
    assert shared["losses"] == 5 * 4 * 16 * 256 + 7 * 4 * 4 * 16 + 3 * 2 * 4 * 16  # features, logits, positives
    images, texts = (torch.randn(12, 16, requires_grad=True) for _ in range(2))
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contrastive_loss(images, texts, torch.tensor(10.0), *[torch.eye(12, dtype=torch.bool)] * 2)
    assert sum(tensor.untyped_storage().nbytes() == 4 * 12 * 12 for tensor in kept.values()) == 4
    features, positives = 2 * 4 * 16 * 256, 3 * 2 * 16 * 16
    assert memory(1)["losses"] == 7 * 4 * 16 * 16 + features + positives


def test_adapters_are_planned() -> None:
    """Gradients and moments of adapters alone; operations as `test_lora` counts them."""
    lora = LoRA(rank=4)
    config = dataclasses.replace(CONFIG, initial="builtin", lora=lora, parallel=ParallelConfig(chunk=4))
    model = build_model(config)
    frozen = sum(p.numel() for p in model.parameters()) - 1
    add_adapters(model, lora, None, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) - 1
    plan = plan_training(STAGE, config, DEVICE, 4)
    phase, sizes = plan.phases[0], plan.phases[0].memory(config, 4)
    assert (sizes["weights"], sizes["gradients"]) == (6 * (frozen + trained), 2 * 4 * trained)  # and DDP's buckets
    assert plan.parameters == (frozen + trained, trained)
    adapted = [tower_part(VISION, 32, (4, "all")), tower_part(TEXT, train=(4, "all"))]
    for parallel in (ParallelConfig(), config.parallel):
        flops = contrastive_flops(16, VISION) + sum(part.flops(parallel) for part in adapted)
        assert phase.flops(parallel) == 16 * flops
