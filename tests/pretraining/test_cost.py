"""Operations of a batch as torch counts them, and the share of a run that is done."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.data.pairs import Stage
from perception_encoder.pretraining.config import MaskRegularization, PretrainingConfig, tower_configs
from perception_encoder.pretraining.plan import contrastive_flops, pair_cost, plan_pretraining
from perception_encoder.pretraining.run import build_model
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from perception_encoder.training.cost import text_cost, vision_cost

CONFIG = PretrainingConfig(
    model="builtin", stages=(Stage(image_size=32, steps=10), Stage(image_size=64, steps=5, batch_size=8)), batch_size=16
)


VISION, TEXT = tower_configs(CONFIG)


def test_the_cost_of_a_batch_is_what_torch_counts() -> None:
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
    total = counter.get_total_flops() - probe + unseen - loss
    assert pair_cost(config, VISION, TEXT).flops(batch) == total + 8 * contrastive_flops(8, VISION)


def test_the_share_of_a_run_that_is_done() -> None:
    cost = pair_cost(CONFIG, VISION, TEXT)
    shares = [cost.share(steps) for steps in range(16)]
    assert shares[0] == 0 and shares[15] == 1 and shares == sorted(shares)
    first, second = (phase.flops() for phase in plan_pretraining(CONFIG)[0])
    assert shares[10] == pytest.approx(10 * first / (10 * first + 5 * second))
    assert shares[12] - shares[11] == pytest.approx(second / (10 * first + 5 * second))


def test_cached_texts_cost_nothing() -> None:
    config = dataclasses.replace(CONFIG, locked="text")
    cached, encoded = (pair_cost(config, VISION, TEXT, texts_cached=cached) for cached in (True, False))
    tokens, images = torch.ones(6, 7, dtype=torch.long), torch.zeros(8, 3, 64, 64, dtype=torch.uint8)
    batch = ImageTextBatch(images, tokens, torch.ones(8, 6, dtype=torch.bool), torch.ones(6, 8, dtype=torch.bool))
    assert encoded.flops(batch) - cached.flops(batch) == 6 * text_cost(TEXT, 7).forward
    first, second = (vision_cost(VISION, size).training() for size in (32, 64))
    first, second = 16 * (first + contrastive_flops(16, VISION)), 8 * (second + contrastive_flops(8, VISION))
    assert cached.share(10) == pytest.approx(10 * first / (10 * first + 5 * second))
