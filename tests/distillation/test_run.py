"""Distillation as a run: it writes a student, goes on bit by bit, takes foreign teachers, and has the paper's sizes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.distillation.recipes import distill_builtin
from perception_encoder.distillation.run import distill
from perception_encoder.distillation.teacher import Teacher
from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.weights import create_model, load_model, write_checkpoint
from perception_encoder.recipes import debug_form
from tests import processes
from tests.processes import pe

DEBUG = debug_form(distill_builtin())


def test_a_run_writes_a_student_and_goes_on_bit_by_bit(photos: Path, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    path = distill(DEBUG, [photos], whole, listener=rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["distillation"] > 0 and row["mfu"] > 0 for row in rows)
    shutil.copytree(whole, broken)
    shutil.rmtree(broken / "checkpoints" / "step-00000004")
    distill(DEBUG, [photos], broken)
    ours, theirs = (load_model(out / "model.safetensors").state_dict() for out in (whole, broken))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    record = json.loads((whole / "config.json").read_text())["config"]
    assert (record["teacher"], record["teacher_logit_scale"]) == ("PE-Core-N16-128", 200.0)
    assert load_model(path).name == "PE-Core-N16-128"


def test_another_teacher_is_another_run(photos: Path, tmp_path: Path) -> None:
    path = tmp_path / "teacher.safetensors"
    write_checkpoint(create_model("builtin"), path)
    config = dataclasses.replace(DEBUG, teacher=str(path), contrastive_weight=1.0)
    rows: list[dict[str, float]] = []
    distill(config, [photos], tmp_path / "run", listener=rows.append)
    assert {"distillation", "contrastive"} <= rows[0].keys()
    write_checkpoint(create_model("builtin", generator=torch.Generator().manual_seed(9)), path)
    with pytest.raises(CheckpointError, match="other settings or other data"):
        distill(config, [photos], tmp_path / "run")


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
    distill(DEBUG, [photos], tmp_path / "run", listener=rows.append, teacher=teacher)
    assert len(rows) == 4 and Foreign.sizes == {(size, size)}
    assert not any("mfu" in row for row in rows)  # nobody has formulas for it


def test_ranks_distil_as_one(photos: Path, tmp_path: Path) -> None:
    """Two processes, each with a teacher of its own, have the losses of one."""
    losses = {}
    for ranks in (None, 2):
        out = tmp_path / str(ranks)
        arguments = ["train", "distill_builtin", "--debug", "--data", str(photos), "--out", str(out)]
        settings = ["contrastive_weight=1", "optimizer.lr=1e-4", "optimizer.plain_lr=1e-4"]
        settings += ["initial=null"]  # noise pictures are all alike to trained weights: rounding would decide
        arguments += [word for setting in settings for word in ("--set", setting)]
        processes.run(pe, *arguments, log=tmp_path / f"{ranks}.log", ranks=ranks)
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        losses[ranks] = [(row["distillation"], row["contrastive"]) for row in rows]
    assert losses[2][0] == pytest.approx(losses[None][0], rel=1e-4)
    assert losses[2] == [pytest.approx(row, rel=5e-3) for row in losses[None]]  # by then weights are rounded otherwise
