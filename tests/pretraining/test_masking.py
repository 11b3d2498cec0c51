"""Which patches are hidden."""

from __future__ import annotations

import torch

from perception_encoder.pretraining.config import MaskRegularization


def test_a_mask_is_of_the_asked_ratio_on_one_image_in_sixteen() -> None:
    rows, masks = MaskRegularization().draw(64, 100, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 16, 32, 48] and masks.shape == (4, 100)
    assert masks.sum(1).tolist() == [40] * 4 and not torch.equal(masks[0], masks[1])
