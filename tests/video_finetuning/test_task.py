"""Losses of a batch of videos."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from perception_encoder.pretraining.plan import plan_pretraining
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.video_finetuning.recipes import video_finetune
from tests.pretraining.toys import gradients, small_batch, small_towers


def test_a_video_of_the_same_frames_trains_as_its_frame() -> None:
    towers, batch = small_towers(), dataclasses.replace(small_batch(), masked=None, masks=None)
    videos = dataclasses.replace(batch, images=batch.images[:, None].repeat(1, 3, 1, 1, 1))
    ours, theirs = (ContrastiveTask(towers).losses(each)["contrastive"] for each in (videos, batch))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("frames", [2, 6])
def test_no_more_frames_than_a_chunk_are_held_at_a_time(frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the videos are: their frames go through the tower one chunk after the other, again backward."""
    towers, whole = small_towers(chunk=2), small_towers()
    batch = dataclasses.replace(small_batch(), masked=None, masks=None)
    shades = torch.arange(frames, dtype=torch.uint8)[None, :, None, None, None]
    batch = dataclasses.replace(batch, images=batch.images[:, None] + shades)
    expected = gradients(whole, ContrastiveTask(whole).losses(batch)["contrastive"])
    counts: list[int] = []
    encode = towers.clip.visual.forward
    monkeypatch.setattr(towers.clip.visual, "forward", lambda x, mask=None: (counts.append(len(x)), encode(x, mask))[1])
    actual = gradients(towers, ContrastiveTask(towers).losses(batch)["contrastive"])
    assert counts == [2] * len(batch.images) * frames  # in chunks of two, each once forward and once backward
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_plan_s_activations_do_not_grow_with_the_frames() -> None:
    config = video_finetune("g14")
    assert config.parallel.chunk == 64

    def activations(frames: int) -> float:
        videos = dataclasses.replace(config, frames=frames)
        return plan_pretraining(videos, 256)[0][0].memory(videos, 256)["activations"]

    assert activations(8) == activations(64)
