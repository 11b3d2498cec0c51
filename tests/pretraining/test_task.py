"""The contrastive task: its losses, and what they train."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.config import MaskRegularization
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import Towers
from tests.pretraining.toys import gradients, small_batch, small_towers


def test_the_two_losses_have_disjoint_gradients() -> None:
    """The contrastive loss never sees a masked picture, the mask loss sees the whole one as a fixed target."""
    towers = small_towers()
    losses = ContrastiveTask(towers).losses(small_batch())
    alone = ContrastiveTask(towers).losses(small_batch(masks=False))
    assert losses.keys() == {"contrastive", "mask"} and alone.keys() == {"contrastive"}
    contrastive, expected = gradients(towers, losses["contrastive"]), gradients(towers, alone["contrastive"])
    assert "mask_token" not in contrastive and contrastive.keys() == expected.keys()
    assert all(torch.equal(contrastive[name], expected[name]) for name in expected)
    mask = gradients(towers, losses["mask"])
    assert "mask_token" in mask and mask["mask_token"].abs().max() > 0
    assert not [name for name in mask if "attn_pool" in name or "text" in name or name.endswith(("proj", "scale"))]


def test_training_fits_a_handful_of_pairs() -> None:
    """The loss falls to almost nothing on one batch: gradients reach both towers."""
    torch.manual_seed(0)
    task = ContrastiveTask(Towers(create_model("builtin")))
    images = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = ImageTextBatch(images, Tokenizer(32)(["a", "b", "c", "d"])[:, :4], *[torch.eye(4, dtype=torch.bool)] * 2)
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = task.losses(batch)["contrastive"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 < 0.5 < losses[0]


def test_the_logit_scale_is_clamped() -> None:
    towers = Towers(create_model("builtin"))
    task = ContrastiveTask(towers)
    towers.clip.logit_scale.data.fill_(9.0)
    task.after_step()
    assert towers.clip.logit_scale.exp().item() == pytest.approx(100.0)


def test_a_mask_is_of_the_asked_ratio_on_one_image_in_sixteen() -> None:
    rows, masks = MaskRegularization().draw(64, 100, torch.Generator().manual_seed(0))
    assert rows.tolist() == [0, 16, 32, 48] and masks.shape == (4, 100)
    assert masks.sum(1).tolist() == [40] * 4 and not torch.equal(masks[0], masks[1])
