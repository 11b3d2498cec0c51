"""The distillation task: each model sees its own size and reads its own words."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.distillation.task import DistillationTask, scale_down
from perception_encoder.distillation.teacher import Teacher, load_teacher
from perception_encoder.losses.logit_distillation import logit_distillation_loss
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.pretraining import towers as module
from perception_encoder.pretraining.towers import Towers
from perception_encoder.pretraining.vocabulary import CaptionVocabulary
from tests.distillation.toys import TEXTS, Noted, noise_images


def batch(size: int, tokens: torch.Tensor) -> ImageTextBatch:
    positives = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.bool)
    return ImageTextBatch(noise_images(size), tokens, positives, positives.T, texts=TEXTS)


def test_the_student_sees_its_size_and_the_teacher_the_batch_s_and_the_words() -> None:
    student, vocabulary = create_model("builtin"), CaptionVocabulary(Tokenizer(32), TEXTS)
    plain = create_model("builtin")
    vocabulary.narrow(student)
    noted = Noted()
    task = DistillationTask(Towers(student), Teacher(noted, 64, "noted"), 32)
    inputs = batch(64, trim(vocabulary(list(TEXTS))))
    losses = task.losses(inputs)
    assert losses.keys() == {"distillation"}
    assert np.array_equal(noted.seen[0][1], inputs.images[1].permute(1, 2, 0).numpy())
    assert noted.seen[1] == list(TEXTS)
    small = F.interpolate(inputs.images.float(), size=(32, 32), mode="bilinear", antialias=True).round().byte()
    assert (scale_down(inputs.images, 32).int() - small.int()).abs().max() <= 1
    integers = F.interpolate(inputs.images, size=(32, 32), mode="bilinear", antialias=True)
    assert torch.equal(scale_down(inputs.images, 32), integers)  # on the CPU, which scales uint8 itself
    images = plain.encode_image(to_float(scale_down(inputs.images, 32)), normalize=True)
    texts = plain.encode_text(Tokenizer(32)(TEXTS), normalize=True)
    shown = torch.from_numpy(noted.encode_images(noted.seen[0])), torch.from_numpy(noted.encode_texts(TEXTS))
    expected = logit_distillation_loss(images, texts, plain.logit_scale.exp(), *shown, 200.0)
    torch.testing.assert_close(losses["distillation"], expected, rtol=1e-4, atol=1e-5)


def test_pictures_of_the_size_are_not_touched() -> None:
    inputs = noise_images(32)
    assert scale_down(inputs, 32) is inputs


def test_a_model_has_nothing_to_learn_from_itself_at_the_same_temperature(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    model = create_model("builtin", pretrained=True)
    write_checkpoint(model, path)
    teacher = load_teacher(str(path))
    assert teacher.image_size == 128
    scale = model.logit_scale.exp().item()
    tokens = trim(Tokenizer(32)(TEXTS))
    same = DistillationTask(Towers(model), teacher, 128, scale).losses(batch(128, tokens))["distillation"]
    sharper = DistillationTask(Towers(model), teacher, 128).losses(batch(128, tokens))["distillation"]
    assert same.item() < 2e-3 < 0.05 < sharper.item()  # 2e-3 leaves room for a teacher in bfloat16


def test_gradients_reach_the_student_alone_and_the_contrastive_loss_stands_beside() -> None:
    model = create_model("builtin")
    teacher = load_teacher("builtin")
    task = DistillationTask(Towers(model), teacher, 32, contrastive_weight=0.5)
    losses = task.losses(dataclasses.replace(batch(64, trim(Tokenizer(32)(TEXTS))), left_out=2))
    assert losses.keys() == {"distillation", "contrastive"}
    sum(losses.values()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    assert not any(p.grad is not None for p in teacher.encoder.model.parameters())
    twice = DistillationTask(Towers(model), teacher, 32, contrastive_weight=1.0)
    again = twice.losses(batch(64, trim(Tokenizer(32)(TEXTS))))
    torch.testing.assert_close(again["contrastive"], 2 * losses["contrastive"])
    assert task.report()["left_out"] == 2 and "left_out" not in twice.report()


def test_a_student_on_another_device_meets_its_teacher_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: what mixes it with the CPU raises."""
    monkeypatch.setattr(module, "trim", lambda tokens: tokens)  # which looks at values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    teacher, meta = Teacher(Noted(), 64, "noted"), torch.device("meta")
    taught = teacher.embed(noise_images(64), TEXTS)
    monkeypatch.setattr(teacher, "embed", lambda pictures, texts: taught)
    task = DistillationTask(Towers(create_model("builtin").to(meta)), teacher, 32, contrastive_weight=1.0)
    losses = task.losses(batch(64, Tokenizer(32)(TEXTS)).to(meta))
    assert {loss.device for loss in losses.values()} == {meta}
    small = scale_down(noise_images(64).to(meta), 32)
    assert (small.device, small.dtype, small.shape) == (meta, torch.uint8, (4, 3, 32, 32))
