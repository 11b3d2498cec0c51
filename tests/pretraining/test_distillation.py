"""Distillation: settings, the teacher, the losses, a run that resumes bit by bit, and its cost."""

from __future__ import annotations

import dataclasses
import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from perception_encoder.data.pairs import ImageTextBatch
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.losses.pretraining import logit_distillation_loss
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.models.registry import find_model
from perception_encoder.preprocess.image import to_float
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.pretraining import towers as module
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.recipes import plan_pretraining
from perception_encoder.pretraining.run import pretrain
from perception_encoder.pretraining.task import DistillationTask, Teacher, load_teacher, scale_down
from perception_encoder.pretraining.towers import CaptionVocabulary, TrainingTowers
from perception_encoder.training.cost import tower_part
from tests.pretraining.teachers import TEXTS, Noted, noise_images
from tests.recipes import debug_recipe, find_recipe
from tests.training.toys import losses, train_by_ranks


def test_the_teacher_s_passes_are_planned() -> None:
    config = find_recipe("distill_b16")
    assert isinstance(config, PretrainingConfig)
    teacher = find_model(config.teacher)
    (phase,), (alone,) = (plan_pretraining(item, 8)[0] for item in (config, dataclasses.replace(config, teacher=None)))
    passes = tower_part(teacher.vision).forward + tower_part(teacher.text).forward
    assert (phase.flops() - alone.flops()) / phase.batch_size == pytest.approx(passes)
    memory = phase.memory(config, 8)
    assert memory["frozen models"] == 2 * (teacher.vision.parameters + teacher.text.parameters)
    assert memory["images"] == 3 * 3 * config.batch_size / 8 * teacher.vision.image_size**2  # large enough for it
    with pytest.raises(ConfigError, match="PE-Spatial-T16-512"):
        plan_pretraining(dataclasses.replace(config, teacher="PE-Spatial-T16-512"), 8)


DEBUG = debug_recipe("distill_builtin")


def test_another_teacher_is_another_run(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    write_checkpoint(create_model("builtin"), path)
    config = dataclasses.replace(DEBUG, teacher=str(path), contrastive_weight=1.0)
    rows: list[dict[str, float]] = []
    pretrain(config, [photos], tmp_path / "run", listener=rows.append)
    assert all(row["distillation"] > 0 and row["contrastive"] > 0 for row in rows) and len(rows) == 4
    record = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (record["teacher"], record["teacher_logit_scale"]) == (str(path), 200.0)
    write_checkpoint(create_model("builtin", generator=torch.Generator().manual_seed(9)), path)
    with pytest.raises(CheckpointError, match="other settings or other data"):
        pretrain(config, [photos], tmp_path / "run")


def test_a_teacher_of_another_library(photos: Path, tmp_path: Path) -> None:
    """open_clip's own model, transform and tokenizer, in ten lines; its pictures are larger than the student's."""
    import open_clip

    size, context = 64, 20
    vision = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": size}
    model = open_clip.CLIP(16, vision, {"context_length": context, "width": 32, "heads": 2, "layers": 1}).eval()
    tokenize = open_clip.SimpleTokenizer(context_length=context)
    transform = open_clip.image_transform(size, is_train=False)

    class Foreign:
        name, sizes = "open_clip", set[tuple[int, int]]()

        @torch.no_grad()
        def encode_images(self, images: list[Image.Image]):
            self.sizes |= {image.size for image in images}
            return model.encode_image(torch.stack([transform(image) for image in images]), normalize=True).numpy()

        @torch.no_grad()
        def encode_texts(self, texts: list[str]):
            return model.encode_text(tokenize(texts), normalize=True).numpy()

    rows: list[dict[str, float]] = []
    teacher = Teacher(Foreign(), size, "a small open_clip")
    pretrain(DEBUG, [photos], tmp_path / "run", listener=rows.append, open_teacher=lambda *_: teacher)
    assert len(rows) == 4 and Foreign.sizes == {(size, size)}


def test_ranks_distil_as_one(photos: Path, tmp_path: Path) -> None:
    """Two processes, each with a teacher of its own, have the losses of one."""
    settings = ["contrastive_weight=1", "optimizer.lr=1e-4", "optimizer.plain_lr=1e-4"]
    settings += ["initial=null"]  # noise pictures are all alike to trained weights: rounding would decide
    recipe = ("distill_builtin", "--debug", "--data", photos)
    runs = [train_by_ranks(tmp_path / str(ranks), ranks, *recipe, settings=settings) for ranks in (1, 2)]
    one, two = (losses(out, "distillation", "contrastive") for out in runs)
    assert two[0] == pytest.approx(one[0], rel=1e-4) and len(one) == 4
    assert two == [pytest.approx(row, rel=5e-3) for row in one]  # by then weights are rounded otherwise


def batch(size: int, tokens: torch.Tensor) -> ImageTextBatch:
    positives = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]], dtype=torch.bool)
    return ImageTextBatch(noise_images(size), tokens, positives, positives.T, texts=TEXTS)


def test_the_student_sees_its_size_and_the_teacher_the_batch_s_and_the_words() -> None:
    student, vocabulary = create_model("builtin"), CaptionVocabulary(Tokenizer(32), TEXTS)
    plain = create_model("builtin")
    vocabulary.narrow(student)
    noted = Noted()
    task = DistillationTask(TrainingTowers(student), Teacher(noted, 64, "noted"), 32)
    inputs = batch(64, trim(vocabulary(list(TEXTS))))
    found = task.losses(inputs)
    assert found.keys() == {"distillation"}
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
    torch.testing.assert_close(found["distillation"], expected, rtol=1e-4, atol=1e-5)


def test_a_model_has_nothing_to_learn_from_itself_at_the_same_temperature(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    model = create_model("builtin", pretrained=True)
    write_checkpoint(model, path)
    teacher = load_teacher(str(path))
    assert teacher.image_size == 128
    scale = model.logit_scale.exp().item()
    tokens = trim(Tokenizer(32)(TEXTS))
    same = DistillationTask(TrainingTowers(model), teacher, 128, scale).losses(batch(128, tokens))["distillation"]
    sharper = DistillationTask(TrainingTowers(model), teacher, 128).losses(batch(128, tokens))["distillation"]
    assert same.item() < 2e-3 < 0.05 < sharper.item()  # 2e-3 leaves room for a teacher in bfloat16


def test_gradients_reach_the_student_alone_and_the_contrastive_loss_stands_beside() -> None:
    model = create_model("builtin")
    teacher = load_teacher("builtin")
    task = DistillationTask(TrainingTowers(model), teacher, 32, contrastive_weight=0.5)
    found = task.losses(dataclasses.replace(batch(64, trim(Tokenizer(32)(TEXTS))), left_out=2))
    assert found.keys() == {"distillation", "contrastive"}
    sum(found.values()).backward()
    assert all(p.grad is not None for name, p in model.named_parameters())
    assert not any(p.grad is not None for p in teacher.encoder.model.parameters())
    twice = DistillationTask(TrainingTowers(model), teacher, 32, contrastive_weight=1.0)
    again = twice.losses(batch(64, trim(Tokenizer(32)(TEXTS))))
    torch.testing.assert_close(again["contrastive"], 2 * found["contrastive"])
    assert task.report()["left_out"] == 2 and "left_out" not in twice.report()


def test_a_student_on_another_device_meets_its_teacher_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for a GPU: what mixes it with the CPU raises."""
    monkeypatch.setattr(module, "trim", lambda tokens: tokens)  # which looks at values
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    teacher, meta = Teacher(Noted(), 64, "noted"), torch.device("meta")
    taught = teacher.embed(noise_images(64), TEXTS)
    monkeypatch.setattr(teacher, "embed", lambda pictures, texts: taught)
    task = DistillationTask(TrainingTowers(create_model("builtin").to(meta)), teacher, 32, contrastive_weight=1.0)
    found = task.losses(batch(64, Tokenizer(32)(TEXTS)).to(meta))
    assert {loss.device for loss in found.values()} == {meta}
    small = scale_down(noise_images(64).to(meta), 32)
    assert (small.device, small.dtype, small.shape) == (meta, torch.uint8, (4, 3, 32, 32))


def test_what_is_remembered_is_not_encoded_again_and_is_the_same_in_any_batch() -> None:
    noted = Noted()
    teacher = Teacher(noted, 32, "noted", remember=5)
    first = teacher.embed(noise_images(32), TEXTS[:2])
    seen = len(noted.seen)
    assert seen == 6 and all(len(item) == 1 for item in noted.seen)
    again = teacher.embed(noise_images(32)[2:], [*TEXTS[:1], TEXTS[2]])  # the second caption found no room
    assert len(noted.seen) == seen + 1
    assert torch.equal(again[0], first[0][2:]) and torch.equal(again[1][0], first[1][0])
    one, three = load_teacher("builtin", remember=9), load_teacher("builtin", remember=9)
    alone = torch.cat([one.embed(p[None], TEXTS[:1])[0] for p in noise_images(32)])
    assert torch.equal(alone, three.embed(noise_images(32), TEXTS)[0])
