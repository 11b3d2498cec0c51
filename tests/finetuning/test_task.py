"""What a finetuning trains: adapters, one tower, or all."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.finetuning.recipes import debug_finetuning, own_pairs
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.lora import LoRA
from perception_encoder.pretraining.run import Trainee, build_model
from perception_encoder.pretraining.task import ContrastiveTask


@pytest.mark.parametrize(
    ("settings", "trained"),
    [({"lora": LoRA(rank=2)}, "lora_|logit_scale"), ({"locked": "text"}, "visual|logit_scale"), ({}, "")],
)
def test_gradients_reach_what_is_trained_alone(settings: dict[str, object], trained: str) -> None:
    config = dataclasses.replace(debug_finetuning(own_pairs()), **settings).pretraining()
    trainee = Trainee(config, build_model(config), None)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageTextBatch(images, Tokenizer(32)(["a", "b"]), *[torch.eye(2, dtype=torch.bool)] * 2)
    losses = ContrastiveTask(trainee.towers).losses(batch)
    assert losses.keys() == {"contrastive"}
    losses["contrastive"].backward()
    reached = {name for name, parameter in trainee.model.named_parameters() if parameter.grad is not None}
    expected = {
        name for name, _ in trainee.model.named_parameters() if any(part in name for part in trained.split("|"))
    }
    assert reached == expected
