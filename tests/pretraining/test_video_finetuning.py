"""Runs on videos: frames from shards of clips with captions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from perception_encoder.data.streams import Shards, StreamConfig
from perception_encoder.errors import DataError
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.run import pretrain
from perception_encoder.pretraining.task import ContrastiveTask
from tests.clips import clip
from tests.data.tars import write_tar
from tests.pretraining.toys import gradients, small_batch, small_towers
from tests.recipes import debug_recipe


@pytest.fixture
def clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tar of ten small videos, each with its caption as the video dataset has it (section 2.3)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    members = {}
    for number in range(10):
        said = {"human_caption": f"the clip with the number {number}", "duration": 0.5}
        members |= {f"{number}.mp4": clip(count=6 + number), f"{number}.json": json.dumps(said).encode()}
    return write_tar(tmp_path / "clips.tar", members)


def test_a_run_on_videos(clips: Path, photos: Path, tmp_path: Path) -> None:
    config = debug_recipe("video_finetune_b16")
    assert isinstance(config, PretrainingConfig) and config.frames == 2
    config = dataclasses.replace(config, streams=StreamConfig(captions={"human_caption": 1.0}))
    rows: list[dict[str, float]] = []
    path = pretrain(config, [Shards(str(clips))], tmp_path / "run", listener=rows.append)
    assert load_model(path).name == "PE-Core-N16-128"
    assert [row["step"] for row in rows] == [1, 2, 3, 4] and all(np.isfinite(row["contrastive"]) for row in rows)
    with pytest.raises(DataError, match="give --shards"):
        pretrain(config, [photos], tmp_path / "other")
    with pytest.raises(DataError, match="no images with captions"):
        pretrain(dataclasses.replace(config, frames=None), [Shards(str(clips))], tmp_path / "other")


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
