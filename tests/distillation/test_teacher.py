"""The teacher: embeddings on its own device, cached if wanted."""

from __future__ import annotations

import pytest
import torch

from perception_encoder.distillation import teacher as teachers
from perception_encoder.distillation.teacher import Teacher, load_teacher
from perception_encoder.errors import ConfigError
from perception_encoder.inference import load as loading
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from tests.distillation.toys import TEXTS, Noted, noise_images


def test_what_is_remembered_is_not_encoded_again_and_is_the_same_in_any_batch() -> None:
    noted = Noted()
    teacher = Teacher(noted, 32, "noted", remember=5)
    first = teacher.embed(noise_images(32), TEXTS[:2])
    seen = len(noted.seen)
    assert seen == 6 and all(len(each) == 1 for each in noted.seen)
    again = teacher.embed(noise_images(32)[2:], [*TEXTS[:1], TEXTS[2]])  # the second caption found no room
    assert len(noted.seen) == seen + 1
    assert torch.equal(again[0], first[0][2:]) and torch.equal(again[1][0], first[1][0])
    one, three = load_teacher("builtin", remember=9), load_teacher("builtin", remember=9)
    alone = torch.cat([one.embed(p[None], TEXTS[:1])[0] for p in noise_images(32)])
    assert torch.equal(alone, three.embed(noise_images(32), TEXTS)[0])


def test_a_teacher_is_loaded_onto_the_rank_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def load(name: str, device: torch.device) -> Encoder:
        asked.append(device)
        return loading.load(name)

    monkeypatch.setattr(teachers, "own_device", lambda: torch.device("cuda", 3))
    monkeypatch.setattr(teachers, "load", load)
    load_teacher("builtin")
    assert asked == [torch.device("cuda", 3)]


def test_a_teacher_needs_a_text_tower(tmp_path) -> None:
    write_checkpoint(create_model("PE-Spatial-T16-512"), tmp_path / "PE-Spatial-T16-512.safetensors")
    with pytest.raises(ConfigError, match="no text tower; take a Core model"):
        load_teacher(str(tmp_path / "PE-Spatial-T16-512.safetensors"))
