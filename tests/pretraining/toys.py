"""A run of four steps with every step of section 2.1, small towers, a batch for them, and gradients by name."""

from __future__ import annotations

import dataclasses

import torch

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.clip import CLIP
from perception_encoder.pretraining.config import MaskRegularization, PretrainingConfig
from perception_encoder.pretraining.recipes import debug_pretraining
from perception_encoder.pretraining.towers import TrainingTowers
from synthetic.builtin.recipes import builtin
from tests.models.small import CORE, SIZE, TEXT, randomize


def debug() -> PretrainingConfig:
    return dataclasses.replace(debug_pretraining(builtin()), masking=MaskRegularization(every=4))


def small_towers(chunk: int | None = None) -> TrainingTowers:
    clip = CLIP(CORE, TEXT)
    randomize(clip)
    towers = TrainingTowers(clip, masked=True, chunk=chunk)
    torch.nn.init.normal_(towers.mask_token, generator=torch.Generator().manual_seed(5))
    return towers


def small_batch(masks: bool = True) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (8, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 49, (8, 8), generator=generator)
    batch = ImageTextBatch(pictures, tokens, torch.eye(8, dtype=torch.bool), torch.eye(8, dtype=torch.bool))
    if not masks:
        return batch
    rows, hidden = MaskRegularization(every=3).draw(8, 16, generator)
    return dataclasses.replace(batch, masked=rows, masks=hidden, masked_share=1.0)


def gradients(towers: TrainingTowers, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: parameter for name, parameter in towers.named_parameters() if parameter.requires_grad}
    names, parameters = zip(*trained.items(), strict=True)
    by_parameter = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {name: gradient for name, gradient in zip(names, by_parameter, strict=True) if gradient is not None}
