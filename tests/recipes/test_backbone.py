"""A convolutional teacher: it trains beside a text tower, goes on bit by bit, and teaches on mixed pictures."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.distillation.backbone import BackboneEncoder
from perception_encoder.distillation.teacher import load_teacher
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoint import read_checkpoint
from perception_encoder.models.weights import load_model
from perception_encoder.preprocess.mixing import Mixing
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.run import build_model
from perception_encoder.recipes.backbone import BackboneConfig, train_backbone
from perception_encoder.recipes.distillation import distill, distill_builtin
from perception_encoder.recipes.kinds import debug_form

DEBUG = debug_form(BackboneConfig(model="builtin", backbone="resnet10t", stages=(), mixing=Mixing()))


@pytest.fixture
def run(photos: Path, tmp_path: Path) -> Path:
    """The folder of a teacher's run."""
    out = tmp_path / "teacher"
    assert train_backbone(DEBUG, [photos], out) == out / "backbone.safetensors"
    return out


def test_the_text_tower_learns_the_vision_tower_stands_by_and_a_run_goes_on_bit_by_bit(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    model, untrained = load_model(run / "model.safetensors"), build_model(DEBUG)
    moved = {
        name
        for name, value in model.named_parameters()
        if "embedding" not in name and not torch.allclose(value, untrained.get_parameter(name), atol=1e-3)
    }
    assert any(name.startswith("text.") for name in moved)
    assert not any(name.startswith("visual.") for name in moved)
    shutil.copytree(run, tmp_path / "broken")
    shutil.rmtree(tmp_path / "broken" / "checkpoints" / "step-00000004")
    again, _ = read_checkpoint(train_backbone(DEBUG, [photos], tmp_path / "broken"))
    first, metadata = read_checkpoint(run / "backbone.safetensors")
    assert all(torch.equal(value, again[name]) for name, value in first.items())
    assert (metadata["backbone"], metadata["image_size"]) == ("resnet10t", "48")


def test_it_teaches_a_student_with_the_same_text_tower_and_other_files_are_refused(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(
        debug_form(distill_builtin()),
        initial=str(run / "model.safetensors"),
        teacher=str(run / "backbone.safetensors"),
        locked="text",
        mixing=Mixing(),
        contrastive_weight=0.5,
        remember=0,
    )
    rows: list[dict[str, float]] = []
    read: list[int] = []
    with monkeypatch.context() as patched:
        encode = BackboneEncoder.encode_texts
        patched.setattr(BackboneEncoder, "encode_texts", lambda own, some: read.append(len(some)) or encode(own, some))
        student = load_model(distill(config, [photos], tmp_path / "student", listener=rows.append))
    assert read and not any(read)  # the student's own text tower, locked, has said it already
    assert len(rows) == 4 and all(row["distillation"] > 0 for row in rows)
    teacher, texts = load_teacher(str(run / "backbone.safetensors")), load_model(run / "model.safetensors").text
    for name, value in texts.named_parameters():
        torch.testing.assert_close(student.get_parameter(f"text.{name}"), value, rtol=0.02, atol=2e-3)
    picture = Image.fromarray(np.arange(40 * 30 * 3, dtype=np.uint8).reshape(40, 30, 3))
    vectors = teacher.encoder.encode_images([picture, picture.rotate(90)])
    assert vectors.dtype == np.float32 and np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert teacher.reads_with(texts) and not teacher.reads_with(build_model(DEBUG).text)
    assert teacher.picture_size == 48 and len(teacher.identity) == 32
    with pytest.raises(CheckpointError, match="no such file"):
        load_teacher(str(tmp_path / "backbone.safetensors"))
    shutil.copy(run / "model.safetensors", run / "backbone.safetensors")
    with pytest.raises(CheckpointError, match="holds no backbone"):
        load_teacher(str(run / "backbone.safetensors"))


def test_what_a_backbone_cannot_do_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="timm has no network 'resnet1000'"):
        train_backbone(dataclasses.replace(DEBUG, backbone="resnet1000"), [photos], tmp_path)
    with pytest.raises(ConfigError, match="masking"):
        dataclasses.replace(DEBUG, masking=MaskRegularization())
