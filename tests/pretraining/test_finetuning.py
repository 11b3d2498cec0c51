"""Finetuning: model, size and sources are those of what it is given; adapters, one tower or all are trained."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.config import LoRA, resolve
from perception_encoder.pretraining.recipes import debug_pretraining, finetune
from perception_encoder.pretraining.run import PairTrainee, build_model
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.training.settings import override


def test_the_model_and_the_size_are_those_of_the_weights(tmp_path: Path) -> None:
    run = resolve(finetune())
    assert (run.model, run.initial, run.steps) == ("PE-Core-N16-128", "PE-Core-N16-128", 300)
    assert [stage.image_size for stage in run.stages] == [128] and run.image_side >= 128
    path = tmp_path / "tiny.safetensors"
    write_checkpoint(create_model("PE-Core-T16-384"), path, half=True)
    run = resolve(dataclasses.replace(finetune(), initial=str(path), locked="visual", batch_size=8))
    assert (run.model, run.stages[0].image_size, run.locked, run.batch_size) == ("PE-Core-T16-384", 384, "visual", 8)
    assert resolve(override(finetune(), ["image_size=64"])).stages[0].image_size == 64


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
