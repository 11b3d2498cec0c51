"""What a run is said to cost: against hand-computed figures, torch's own counts, and what a loss really keeps."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from perception_encoder.data.pairs import Stage
from perception_encoder.losses.contrastive import contrastive_loss
from perception_encoder.models.clip import CLIP
from perception_encoder.planning.cluster import Cluster
from perception_encoder.planning.cost import (
    adapted_recomputed,
    adapted_training,
    contrastive_flops,
    text_cost,
    training_flops,
    vision_cost,
)
from perception_encoder.planning.devices import Device, find_device
from perception_encoder.pretraining.config import PretrainingConfig, tower_configs
from perception_encoder.pretraining.lora import LoRA, add_adapters
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.plan import device_memory, plan_pretraining
from perception_encoder.pretraining.recipes import ablation, cooldown, core
from perception_encoder.pretraining.run import build_model
from perception_encoder.train.distributed import ParallelConfig

CONFIG = PretrainingConfig(
    model="builtin", stages=(Stage(image_size=32, steps=10), Stage(image_size=64, steps=5, batch_size=8)), batch_size=16
)
VISION, TEXT = tower_configs(CONFIG)
CLUSTER = Cluster(device=Device(flops=1e12, memory=1e9), devices=4, utilization=0.5)


def whole_model() -> CLIP:
    """The model of the run at its own resolution, which plans are for; the run draws positions at its first one."""
    model = build_model(CONFIG)
    model.visual.set_image_size(VISION.image_size)
    return model


def test_stages_and_hours_are_those_of_the_formulas() -> None:
    plan = plan_pretraining(CONFIG, CLUSTER)
    first, second = plan.stages
    assert (first.samples, second.samples) == (160, 40)
    pair = training_flops(VISION, TEXT, image_size=64) + contrastive_flops(8, 256)
    assert second.flops == second.executed == 40 * pair
    assert plan.device_hours(second) == pytest.approx(40 * pair / 1e12 / 0.5 / 3600)
    assert plan.device_hours() == pytest.approx(plan.device_hours(first) + plan.device_hours(second))
    assert plan.parameters == sum(p.numel() for p in whole_model().parameters())


@pytest.mark.parametrize("saving", [{"checkpointing": True}, {"chunk": 2}, {"checkpointing": True, "chunk": 2}])
def test_what_is_computed_twice_costs_time(saving: dict[str, int]) -> None:
    plan = plan_pretraining(dataclasses.replace(CONFIG, parallel=ParallelConfig(**saving)), CLUSTER)
    plain = plan_pretraining(CONFIG, CLUSTER)
    flags = {"checkpointing": "checkpointing" in saving, "chunked": "chunk" in saving}
    again = vision_cost(VISION, 32).recomputed(**flags) + text_cost(TEXT).recomputed(**flags)
    assert plan.stages[0].flops == plain.stages[0].flops
    assert plan.stages[0].executed == plain.stages[0].flops + 160 * again
    assert plan.device_hours() > plain.device_hours()


def test_videos_masked_copies_and_a_locked_tower() -> None:
    def flops(**changes: object) -> float:
        return plan_pretraining(dataclasses.replace(CONFIG, **changes), CLUSTER).stages[0].flops

    image, plain = vision_cost(VISION, 32), flops()
    assert flops(frames=8) == plain + 160 * 7 * image.training()
    assert flops(masking=MaskRegularization(every=4)) == plain + 40 * image.masked_training()
    assert flops(locked="visual") == plain - 160 * (image.training() - image.forward)
    assert flops(locked="text") == plain - 160 * (text_cost(TEXT).training() - text_cost(TEXT).forward)


def test_progressive_resolution_halves_the_vision_tower_s_work() -> None:
    """As section 2.1 says of step 2, of the vision tower: the text tower sees as many captions as before."""
    costs = []
    for step in (1, 2):
        config = ablation(step)
        vision, _ = tower_configs(config)
        work = [stage.steps * vision_cost(vision, stage.image_size).training() for stage in config.stages]
        costs.append(sum(work) * config.batch_size)
    assert 0.5 < costs[1] / costs[0] < 0.6


def test_core_g_fits_512_h100s() -> None:
    plan = plan_pretraining(core("g14"), Cluster(device=find_device("h100"), devices=512))
    assert sum(plan.memory.values()) < 0.9 * 80e9
    assert sum(stage.samples for stage in plan.stages) == 656_000 * 131_072
    alone = dataclasses.replace(core("g14"), parallel=ParallelConfig())
    assert sum(plan_pretraining(alone, Cluster(device=find_device("h100"), devices=512)).memory.values()) > 80e9


def test_memory_of_parameters_by_hand() -> None:
    model = whole_model()
    total = sum(p.numel() for p in model.parameters()) - 1
    blocks = sum(p.numel() for name, p in model.named_parameters() if "resblocks" in name)
    alone = device_memory(CONFIG, CONFIG.stages[0], 1)
    assert (alone["weights"], alone["gradients"], alone["optimizer"]) == (4 * total, 4 * total, 8 * total)
    assert "buckets" not in alone and "whole blocks" not in alone
    assert device_memory(CONFIG, CONFIG.stages[0], 4)["buckets"] == 4 * total
    shared = device_memory(dataclasses.replace(CONFIG, parallel=ParallelConfig(kind="fsdp")), CONFIG.stages[0], 4)
    assert shared["optimizer"] == pytest.approx(8 * (total - blocks + blocks / 4))
    towers = (model.visual.transformer, model.text.transformer)
    block = max(sum(p.numel() for p in tower.resblocks[0].parameters()) for tower in towers)
    assert shared["whole blocks"] == 3 * 4 * block and "buckets" not in shared
    assert (shared["images"], shared["true pairs"]) == (3 * 3 * 4 * 32**2, 3 * 2 * 4 * 16)  # of three batches
    half = device_memory(dataclasses.replace(CONFIG, locked="text"), CONFIG.stages[0], 1)
    vision = sum(p.numel() for p in model.visual.parameters())
    assert (half["weights"], half["optimizer"]) == (4 * total, 8 * vision)


def test_activations_fall_with_devices_micro_batches_and_checkpointing() -> None:
    stage = CONFIG.stages[0]

    def held(devices: int = 1, **saving: int) -> float:
        return device_memory(dataclasses.replace(CONFIG, parallel=ParallelConfig(**saving)), stage, devices)[
            "activations"
        ]

    assert held(devices=4) == held() / 4
    assert held(chunk=4) < held() / 4 < held(chunk=8) < held()
    assert held(chunk=100) < held()  # a chunk larger than the batch: one tower at a time
    assert held(checkpointing=True) < held() / 2


def test_the_loss_keeps_two_matrices_each_way() -> None:
    """Of the seven that the plan counts; the others are in passing."""
    images, texts = (torch.randn(12, 16, requires_grad=True) for _ in range(2))
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        contrastive_loss(images, texts, torch.tensor(10.0), *[torch.eye(12, dtype=torch.bool)] * 2)
    assert sum(tensor.untyped_storage().nbytes() == 4 * 12 * 12 for tensor in kept.values()) == 4
    assert device_memory(CONFIG, CONFIG.stages[0], 1)["logits"] == 7 * 4 * 16 * 16


def test_adapters_are_planned() -> None:
    """Gradients and moments of adapters alone; operations as `test_lora` counts them."""
    lora = LoRA(rank=4)
    config = dataclasses.replace(CONFIG, initial="builtin", lora=lora, parallel=ParallelConfig(chunk=4))
    model = build_model(config)
    frozen = sum(p.numel() for p in model.parameters()) - 1
    add_adapters(model, lora, None, 0)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad) - 1
    memory = device_memory(config, config.stages[0], 4)
    assert (memory["weights"], memory["gradients"], memory["buckets"]) == (4 * (frozen + trained), *[4 * trained] * 2)
    stage = plan_pretraining(config, CLUSTER).stages[0]
    costs = vision_cost(VISION, 32), text_cost(TEXT)
    flops = contrastive_flops(16, 256) + sum(adapted_training(lora, cost) for cost in costs)
    assert stage.flops == 160 * flops
    assert stage.executed == 160 * (flops + sum(adapted_recomputed(lora, cost, chunked=True) for cost in costs))


def test_a_cooldown_is_small_beside_its_run() -> None:
    cluster = Cluster(device=find_device("a100-80gb"), devices=256)
    ratio = (
        plan_pretraining(cooldown("g14"), cluster).device_hours()
        / plan_pretraining(core("g14"), cluster).device_hours()
    )
    assert ratio < 0.005
