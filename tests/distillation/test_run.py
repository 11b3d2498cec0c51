"""Distillation as a run: it writes a student, goes on bit by bit, takes foreign teachers, and has the paper's sizes."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from perception_encoder.distillation.run import DistillationConfig, distill, distill_builtin
from perception_encoder.distillation.teacher import Teacher
from perception_encoder.errors import CheckpointError, ConfigError
from perception_encoder.models.checkpoints.weights import create_model, load_model, write_checkpoint
from perception_encoder.models.registry import find_model
from perception_encoder.planning.cost import text_cost, vision_cost
from perception_encoder.planning.devices import find_device
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.mixing import Mixing
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.plan import Cluster, plan_pretraining
from perception_encoder.recipes.catalog import find_recipe
from perception_encoder.recipes.kinds import debug_form, plan
from tests import processes
from tests.processes import pe

DEBUG = debug_form(distill_builtin())


@pytest.mark.parametrize("name", ["l14", "b16", "s16", "t16"])
def test_the_papers_distillation(name: str) -> None:
    config = find_recipe(f"distill_{name}")
    assert config.steps * config.batch_size == pytest.approx(4.4e9, rel=0.01)
    assert (config.batch_size, config.warmup, config.optimizer.lr) == (16_384, 2_000, 1e-6)
    assert (config.optimizer.name, config.optimizer.betas, config.optimizer.weight_decay) == ("lamb", (0.9, 0.95), 0.05)
    assert (config.teacher, config.teacher_logit_scale, config.contrastive_weight) == ("PE-Core-G14-448", 200.0, 0.0)
    assert config.augmentation is None and config.masking is None
    assert [stage.image_size for stage in config.stages] == [find_model(config.model).vision.image_size]


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


def test_the_teacher_s_passes_are_planned() -> None:
    """Once a pair; of what is remembered once for each, where pictures are neither augmented nor mixed."""
    cluster = Cluster(device=find_device("h100"), devices=8)
    config = find_recipe("distill_b16")
    teacher = find_model(config.teacher)
    beside = vision_cost(teacher.vision).forward + text_cost(teacher.text).forward

    def added(config: DistillationConfig) -> float:
        stage, alone = plan(config, cluster).stages[0], plan_pretraining(config, cluster).stages[0]
        return (stage.flops - alone.flops) / stage.samples

    assert added(config) == pytest.approx(beside)
    half = dataclasses.replace(config, remember=config.samples)
    assert added(half) == pytest.approx(beside / 2)
    assert added(dataclasses.replace(config, remember=9 * config.samples)) == pytest.approx(beside)
    for change in ({"augmentation": Augmentation()}, {"mixing": Mixing()}):
        drawn = dataclasses.replace(half, **change)
        assert added(drawn) == pytest.approx(vision_cost(teacher.vision).forward + text_cost(teacher.text).forward / 2)
    with pytest.raises(ConfigError, match="the teacher is PE-Spatial-T16-512, which has no text tower"):
        plan(dataclasses.replace(config, teacher="PE-Spatial-T16-512"), cluster)


@pytest.mark.parametrize("change", [{"masking": MaskRegularization()}, {"frames": 8}])
def test_masks_and_videos_are_refused(change: dict) -> None:
    with pytest.raises(ConfigError, match="leave masking and frames at null"):
        dataclasses.replace(distill_builtin(), **change)


def test_ranks_distil_as_one(photos: Path, tmp_path: Path) -> None:
    """Two processes, each with a teacher of its own, have the losses of one."""
    found = {}
    for ranks in (None, 2):
        out = tmp_path / str(ranks)
        arguments = ["train", "distill_builtin", "--debug", "--data", str(photos), "--out", str(out)]
        settings = ["contrastive_weight=1", "optimizer.lr=1e-4", "optimizer.plain_lr=1e-4"]
        settings += ["initial=null"]  # noise pictures are all alike to trained weights: rounding would decide
        arguments += [word for setting in settings for word in ("--set", setting)]
        processes.run(pe, *arguments, log=tmp_path / f"{ranks}.log", ranks=ranks)
        rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
        found[ranks] = [(row["distillation"], row["contrastive"]) for row in rows]
    assert found[2][0] == pytest.approx(found[None][0], rel=1e-4)
    assert found[2] == [pytest.approx(row, rel=5e-3) for row in found[None]]  # by then weights are rounded otherwise
