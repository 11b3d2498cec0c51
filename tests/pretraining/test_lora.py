"""Finetuning: adapters begin as nothing and merge into plain weights; adapters, one tower or all are trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.checkpoints.weights import create_model, load_model, write_checkpoint
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.config import LoRA, resolve_config
from perception_encoder.pretraining.recipes import debug_pretraining, finetune
from perception_encoder.pretraining.run import PairTrainee, build_model, pretrain
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import add_adapters, merge_adapters
from perception_encoder.training.cost import tower_part
from perception_encoder.training.distributed import ParallelConfig, in_chunks
from perception_encoder.training.settings import override
from synthetic.builtin.recipes import builtin
from tests.models.small import CORE, TEXT, small_clip

TEXTS = ["a photo of a cup", "a rose"]


def pixels() -> torch.Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def outputs(model) -> torch.Tensor:
    return torch.cat([model.encode_image(pixels()), model.encode_text(Tokenizer(32)(TEXTS))])


@pytest.mark.parametrize("rank", [1, 256])
def test_untrained_adapters_change_nothing_and_merge_into_the_same_weights(rank: int) -> None:
    model, original = create_model("builtin"), create_model("builtin")
    adapters = add_adapters(model, LoRA(rank=rank), None, 0)
    torch.testing.assert_close(outputs(model), outputs(original), rtol=1e-4, atol=1e-5)
    merge_adapters(adapters)
    state = model.state_dict()
    assert state.keys() == original.state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in original.state_dict().items())


@pytest.mark.parametrize(
    ("config", "locked", "count"),
    [(LoRA(targets="attention"), "text", 2 * 12), (LoRA(targets="mlp"), "visual", 2 * 6), (LoRA(), "text", 4 * 12)],
)
def test_targets_and_a_locked_tower(config: LoRA, locked: str, count: int) -> None:
    model = create_model("builtin")
    add_adapters(model, config, locked, 0)
    names = [name for name, _ in model.named_parameters() if "lora_A" in name]
    assert len(names) == count and not [name for name in names if name.startswith(locked)]


def test_merged_the_model_computes_what_it_computed_with_them() -> None:
    model, again = create_model("builtin"), create_model("builtin")
    adapters, others = (add_adapters(item, LoRA(rank=2, alpha=6), None, 5) for item in (model, again))
    generator = torch.Generator().manual_seed(1)
    for (name, parameter), (_, other) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(parameter, other)  # drawn from the seed
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05, generator=generator)
    name = "visual.transformer.resblocks.3.mlp.c_fc"
    layer = model.get_submodule(name)
    delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight * (6 / 2)
    expected, before = outputs(model), layer.base_layer.weight.clone()
    merge_adapters(adapters)
    merge_adapters(others)
    torch.testing.assert_close(outputs(model), expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(expected, outputs(again), rtol=1e-2)
    torch.testing.assert_close(model.get_submodule(name).weight, before + delta)


@pytest.mark.parametrize("saving", [{}, {"checkpointing": True}, {"chunk": 2}])
@pytest.mark.parametrize("targets", ["attention", "mlp", "all"])
def test_they_cost_what_torch_counts(targets: str, saving: dict[str, int]) -> None:
    """But for products that all inputs of a call share, and fused attention where nothing is trained before it."""
    model, lora, inputs, length = small_clip(), LoRA(rank=3, targets=targets), 2, 5
    parallel = ParallelConfig(**saving)
    add_adapters(model, lora, None, 0)
    model.set_grad_checkpointing("checkpointing" in saving)
    chunk = inputs if "chunk" in saving else None
    times = 3 + len(saving)  # forward, backward twice, and once more
    sums = 2 * lora.rank * 3 * 32**2 if targets != "mlp" else 0
    fused = 0 if targets != "mlp" else times - 2  # the first block's attention is run forward alone

    def count(encode: Callable[[torch.Tensor], torch.Tensor], given: torch.Tensor) -> int:
        with FlopCounterMode(display=False) as counter:
            in_chunks(encode, given, chunk).sum().backward()
        return counter.get_total_flops()

    part = tower_part(TEXT, length, (lora.rank, targets))
    expected = inputs * part.flops(parallel)
    expected += times * TEXT.depth * sums - fused * inputs * 4 * length**2 * TEXT.width
    assert count(model.encode_text, torch.ones(inputs, length, dtype=torch.int64)) == expected

    part, passes, tokens = tower_part(CORE, 48, (lora.rank, targets)), 1 + ("chunk" in saving), 37
    expected = inputs * part.flops(parallel)
    expected += times * CORE.depth * sums - fused * inputs * 4 * tokens**2 * CORE.width
    pooled = 4 * tokens * CORE.width  # fused too: a frozen probe asks
    expected += passes * 2 * CORE.width**2 - (passes + 1) * inputs * pooled
    assert count(model.encode_image, torch.zeros(inputs, 3, 48, 48)) == expected


def test_a_run_with_adapters_writes_plain_weights(photos: Path, tmp_path: Path) -> None:
    config = dataclasses.replace(debug_pretraining(builtin()), initial="builtin", lora=LoRA(rank=4), warmup=0)
    trained = load_model(pretrain(config, [photos], tmp_path / "run")).state_dict()
    original = load_model("builtin").state_dict()
    assert trained.keys() == original.keys()
    kept = {name: value for name, value in trained.items() if value.shape == original[name].shape}
    changed = {name for name, value in kept.items() if (value - original[name]).abs().max() > 1e-3}
    blocks = {name for name in changed if ".resblocks." in name and not name.endswith("bias")}
    assert blocks and changed - blocks <= {"logit_scale"}


def test_the_model_and_the_size_are_those_of_the_weights(tmp_path: Path) -> None:
    run = resolve_config(finetune())
    assert (run.model, run.initial, run.steps) == ("PE-Core-N16-128", "PE-Core-N16-128", 300)
    assert [stage.image_size for stage in run.stages] == [128] and run.image_side >= 128
    path = tmp_path / "tiny.safetensors"
    write_checkpoint(create_model("PE-Core-T16-384"), path, half=True)
    run = resolve_config(dataclasses.replace(finetune(), initial=str(path), locked="visual", batch_size=8))
    assert (run.model, run.stages[0].image_size, run.locked, run.batch_size) == ("PE-Core-T16-384", 384, "visual", 8)
    assert resolve_config(override(finetune(), ["image_size=64"])).stages[0].image_size == 64


@pytest.mark.parametrize(
    ("settings", "trained"),
    [
        ({"lora": LoRA(rank=2)}, "lora_|logit_scale"),
        ({"locked": "text"}, "visual|logit_scale"),
        ({"locked": "visual"}, "text|logit_scale"),
        ({}, ""),
    ],
)
def test_gradients_reach_what_is_trained_alone(settings: dict[str, object], trained: str) -> None:
    config = dataclasses.replace(debug_pretraining(finetune()), **settings)
    trainee = PairTrainee(config, build_model(config), None)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageTextBatch(images, Tokenizer(32)(["a", "b"]), *[torch.eye(2, dtype=torch.bool)] * 2)
    losses = ContrastiveTask(trainee.module).losses(batch)
    assert losses.keys() == {"contrastive"}
    losses["contrastive"].backward()
    reached = {name for name, parameter in trainee.model.named_parameters() if parameter.grad is not None}
    expected = {
        name for name, _ in trainee.model.named_parameters() if any(part in name for part in trained.split("|"))
    }
    assert reached == expected
