"""Losses of a batch of videos."""

from __future__ import annotations

import dataclasses

import torch

from perception_encoder.video_finetuning.task import ContrastiveTask
from tests.pretraining.test_towers import small_batch, small_towers


def test_a_video_of_the_same_frames_trains_as_its_frame() -> None:
    towers, batch = small_towers(), dataclasses.replace(small_batch(), masked=None, masks=None)
    videos = dataclasses.replace(batch, images=batch.images[:, None].repeat(1, 3, 1, 1, 1))
    ours, theirs = (ContrastiveTask(towers).losses(each)["contrastive"] for each in (videos, batch))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
