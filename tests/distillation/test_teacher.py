"""The teacher: embeddings on its own device, cached if wanted."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from perception_encoder.distillation import teacher as teachers
from perception_encoder.distillation.teacher import Teacher, load_teacher
from perception_encoder.errors import ConfigError
from perception_encoder.inference import encoder
from perception_encoder.inference.encoder import Encoder
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint

TEXTS = ("a photo of a cup", "a rose", "an ant on a leaf")


def pictures(size: int, count: int = 4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


class Noted:
    """A teacher's encoder that says nothing of what it is shown, and keeps it."""

    name = "noted"

    def __init__(self) -> None:
        self.seen: list = []

    def encode_images(self, images) -> np.ndarray:
        self.seen.append([np.asarray(image) for image in images])
        return np.stack([self._vector(np.asarray(image, dtype=np.float32).mean((0, 1))) for image in images])

    def encode_texts(self, texts) -> np.ndarray:
        self.seen.append(list(texts))
        return np.stack([self._vector(np.array([len(t), 3, 5], dtype=np.float32)) for t in texts])

    @staticmethod
    def _vector(values: np.ndarray) -> np.ndarray:
        return values / np.linalg.norm(values)


def test_what_is_remembered_is_not_encoded_again_and_is_the_same_in_any_batch() -> None:
    noted = Noted()
    teacher = Teacher(noted, 32, "noted", remember=5)
    first = teacher.embed(pictures(32), TEXTS[:2])
    seen = len(noted.seen)
    assert seen == 6 and all(len(each) == 1 for each in noted.seen)
    again = teacher.embed(pictures(32)[2:], [*TEXTS[:1], TEXTS[2]])  # the second caption found no room
    assert len(noted.seen) == seen + 1
    assert torch.equal(again[0], first[0][2:]) and torch.equal(again[1][0], first[1][0])
    one, three = load_teacher("builtin", remember=9), load_teacher("builtin", remember=9)
    alone = torch.cat([one.embed(p[None], TEXTS[:1])[0] for p in pictures(32)])
    assert torch.equal(alone, three.embed(pictures(32), TEXTS)[0])


def test_a_teacher_is_loaded_onto_the_rank_s_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []

    def load(name: str, device: torch.device) -> Encoder:
        asked.append(device)
        return encoder.load(name)

    monkeypatch.setattr(teachers, "own_device", lambda: torch.device("cuda", 3))
    monkeypatch.setattr(teachers, "load", load)
    load_teacher("builtin")
    assert asked == [torch.device("cuda", 3)]


def test_a_teacher_needs_a_text_tower(tmp_path) -> None:
    write_checkpoint(create_model("PE-Spatial-T16-512"), tmp_path / "PE-Spatial-T16-512.safetensors")
    with pytest.raises(ConfigError, match="no text tower; take a Core model"):
        load_teacher(str(tmp_path / "PE-Spatial-T16-512.safetensors"))
