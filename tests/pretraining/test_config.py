"""The configuration of a run: what is refused, and what tells it from others."""

from __future__ import annotations

import dataclasses

import torch

from perception_encoder.pretraining.config import MaskRegularization
from synthetic.builtin.recipes import builtin


def test_a_run_is_told_by_what_is_not_by_default() -> None:
    config = builtin()
    same = dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, betas=(0.9, 0.95)))
    assert same.fingerprint() == config.fingerprint()
    others = [
        dataclasses.replace(config, seed=1),
        dataclasses.replace(config, augmentation=None),
        dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, betas=(0.9, 0.99))),
        dataclasses.replace(config, stages=config.stages[:2]),
        dataclasses.replace(config, masking=MaskRegularization()),
        dataclasses.replace(config, masking=MaskRegularization(every=8)),
    ]
    assert len({item.fingerprint() for item in [config, *others]}) == len(others) + 1
    assert config.fingerprint(["a"]) != config.fingerprint(["b"])


def test_a_mask_is_of_the_asked_ratio_on_one_image_in_sixteen() -> None:
    rows, masks = MaskRegularization().draw(64, 100, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 16, 32, 48] and masks.shape == (4, 100)
    assert masks.sum(1).tolist() == [40] * 4 and not torch.equal(masks[0], masks[1])
