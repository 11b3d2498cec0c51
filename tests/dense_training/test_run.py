"""Heads trained end to end: they learn, resume exactly, train as ranks, and refuse what does not fit."""

from __future__ import annotations

import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from perception_encoder.dense_prediction.dense_model import load_dense_model
from perception_encoder.dense_prediction.detection.detr import DetrHeadConfig
from perception_encoder.dense_prediction.head_fitting import Standardize
from perception_encoder.dense_training.batches import DenseBatches
from perception_encoder.dense_training.kinds import KINDS
from perception_encoder.dense_training.recipes import debug_dense, deta
from perception_encoder.dense_training.run import load_initial, train_dense
from perception_encoder.errors import CheckpointError, ConfigError, DataError
from perception_encoder.models.libraries import load_tower
from perception_encoder.ranks import ALONE
from perception_encoder.training.checkpoint import BEST
from perception_encoder.training.optimizer import OptimizerConfig
from tests.datasets.drawn import write_objects365
from tests.dense_prediction.published.renamed import randomize, to_detectron2, use_small_towers, vitdet
from tests.dense_training.datasets import HEADS, SMALL, read_head, small_config, write_dataset
from tests.training.toys import losses, rows, train_by_ranks, validations


@pytest.mark.parametrize("task", HEADS)
def test_a_run_writes_a_head_that_predicts(task: str, datasets: dict[str, Path], tmp_path: Path) -> None:
    path = train_dense(small_config(task), [datasets[task]], tmp_path)
    info, tensors = read_head(path)
    assert (info.encoder, info.layer, info.image_size, info.finetuned) == ("PE-Core-N16-128", 11, 32, False)
    assert all(name.startswith("head.") for name in tensors)
    model = load_dense_model(path, info, tensors, load_tower("builtin"))
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 32, 48, dtype=torch.uint8)) is not None
    assert [row["step"] for row in validations(tmp_path)] == [2, 4] and (tmp_path / BEST).is_file()
    with pytest.raises(ConfigError, match="belongs to PE-Core-N16-128, layer 11"):
        load_dense_model(path, info, tensors, load_tower("random:builtin"))


@pytest.mark.parametrize("task", [*HEADS, "detr"])
def test_a_run_standardises_the_features_it_trains_on(task: str, datasets: dict[str, Path], tmp_path: Path) -> None:
    """The maps of the first 64 images have mean 0 and deviation 1 in each channel, whatever the layer; in float32."""
    detr = ["masks=false"] if task == "detr" else []
    config = small_config("detector" if detr else task, "steps=1", "validation=null", "optimizer.lr=1e-6", *detr)
    if detr:
        config = replace(config, head=DetrHeadConfig(channels=32, layers=1, hidden=16, queries=10))
    data = datasets["detector" if detr else task]
    info, tensors = read_head(train_dense(config, [data], tmp_path))
    samples = KINDS[type(config.head)](config, data).training
    make = DenseBatches(config, samples, ALONE, depth=info.layer + 1, padding=load_tower("builtin").padding)
    images = torch.cat([make(step).images for step in range(16)])
    model = load_dense_model(tmp_path / "head.safetensors", info, tensors, load_tower("builtin"))
    (standardize,) = [module for module in model.modules() if isinstance(module, Standardize)]
    with torch.no_grad():
        maps = standardize(model.backbone(images))  # (64, D, h, w)
    assert maps.mean(dim=(0, 2, 3)).abs().max() < 1e-3
    assert (maps.std(dim=(0, 2, 3), correction=0) - 1).abs().max() < 1e-3
    if task == "depth":
        depths = [target["depth"] for step in range(16) for target in make(step).targets]
        typical = torch.stack([depth[model.head.config.within(depth)].log().mean() for depth in depths]).mean()
        assert abs(tensors["head.out.2.bias"].item() - typical.item()) < 1e-3  # the first prediction


def test_an_encoder_is_finetuned_in_windows(datasets: dict[str, Path], tmp_path: Path) -> None:
    windows = ("windows.size=2", "windows.global_blocks=[2]", "windows.patch_size=8", "layer=3")
    config = small_config("detector", "frozen=false", "steps=1", "validation=null", *windows)
    path = train_dense(config, [datasets["detector"]], tmp_path)
    info, tensors = read_head(path)
    assert info.windows is not None and info.windows.global_blocks == (2,) and info.finetuned
    model = load_dense_model(path, info, tensors, load_tower("builtin"))
    assert model.backbone.patch_size == 8
    assert model.map_of(Image.new("RGB", (60, 30)), 32).shape == (1, 4, 4, 192)  # padded to a square


def test_a_detector_overfits_ten_images(tmp_path: Path) -> None:
    data = write_dataset("detector", tmp_path / "data", train=10, test=1)
    shutil.rmtree(data / "test")
    shutil.copytree(data / "train", data / "test")
    sizes = ("image_size=96", "steps=90", "batch_size=10", "warmup=10", "validation.every=90", "validation.size=10")
    heads = ("head.channels=64", "head.hidden=128", "head.regions=32", "masks=false", "layer=5")
    rest = ("scales=[1, 1]", "flip=0", "optimizer.lr=3e-3", "checkpoint_every=90")
    config = small_config("detector", *sizes, *heads, *rest)
    train_dense(config, [data], tmp_path / "run")
    assert rows(tmp_path / "run")[-1]["validation/box_ap"] > 0.9


def test_a_federated_detector_with_repeated_images(datasets: dict[str, Path], tmp_path: Path) -> None:
    config = small_config("detector", "head.federated=2", "repeat_threshold=1.0")
    path = train_dense(config, [datasets["detector"]], tmp_path)
    info, tensors = read_head(path)
    assert info.head["federated"] == 2
    weights = tensors["head.model.roi_heads.class_weights"]
    assert weights.shape == (2,) and (weights > 0).all() and (weights < 1).any()
    assert load_dense_model(path, info, tensors, load_tower("builtin")) is not None


def test_a_detr_goes_on_from_one_of_other_classes(
    datasets: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head_config = DetrHeadConfig(channels=32, layers=1, hidden=16, queries=8)
    config = replace(small_config("detector"), head=head_config, masks=False)
    first = train_dense(config, [datasets["detector"]], tmp_path / "first")
    info, _ = read_head(first)
    assert (info.task, info.classes) == ("detr", ("red", "blue"))
    again = replace(
        config,
        class_agnostic=True,
        initial=str(first.parent),
        steps=1,
        optimizer=OptimizerConfig(lr=1e-300, name="sgd"),
    )
    with caplog.at_level(logging.INFO, "perception_encoder"):
        second = train_dense(again, [datasets["detector"]], tmp_path / "second")
    states = [read_head(path)[1] for path in (first, second)]
    pyramid = "head.pyramid.project.1.0.weight"
    assert torch.equal(states[0][pyramid], states[1][pyramid])
    (line,) = (record.getMessage() for record in caplog.records if "do not fit" in record.getMessage())
    assert "head.class_embed.0.weight" in line and pyramid not in line
    assert f"head for detr: {first}" in caplog.text and "the encoder is entirely frozen" in caplog.text
    depth = train_dense(small_config("depth", "steps=1"), [datasets["depth"]], tmp_path / "depth")
    with pytest.raises(CheckpointError, match="has no weights that fit this head"):
        train_dense(replace(config, initial=str(depth)), [datasets["detector"]], tmp_path / "third")


def test_the_first_stage_of_the_system_level_detector_in_small(tmp_path: Path) -> None:
    """Objects365 as it is published, by the recipe of its stage, at debug size."""
    data = write_objects365(tmp_path / "objects365", {"train": 4, "val": 2})
    config = replace(debug_dense(deta(1)), steps=2, batch_size=2, half=False)
    small = replace(config, head=DetrHeadConfig(channels=32, layers=1, hidden=16, queries=8))
    info, tensors = read_head(train_dense(small, [data], tmp_path / "run"))
    assert (info.task, info.classes, info.masks, info.finetuned) == ("detr", ("red", "blue"), False, True)
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    found = losses(tmp_path / "run", "proposal_class", "box")
    assert len(found) == 2 and np.isfinite(found).all()


def test_a_published_detector_is_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights of one of the same classes are loaded, or those of the head alone if the encoder is frozen."""
    use_small_towers(monkeypatch)
    published = vitdet()
    torch.save({"model": to_detectron2(published)}, tmp_path / "a.pth")
    expected = published.state_dict()
    for frozen in (False, True):
        model = vitdet()
        randomize(model, 7)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        model.backbone.frozen = frozen
        load_initial(model, tmp_path / "a.pth")
        state = model.state_dict()
        for name in state:
            source = before if frozen and name.startswith("backbone.") else expected
            rows = 4 if "bbox_pred" in name else 1 if "mask_fcn_logits" in name else 0  # of the background
            assert torch.equal(state[name][rows:], source[name][rows:])


def test_what_does_not_fit_is_refused(datasets: dict[str, Path], tmp_path: Path) -> None:
    data = [datasets["depth"]]
    for setting, message in (
        ("image_size=40", "image_size is 40"),
        ("layer=12", "layer 12 does not exist"),
        ("drop_path=0.1", "set frozen=false"),
    ):
        with pytest.raises(ConfigError, match=message):
            train_dense(small_config("depth", setting), data, tmp_path)
    with pytest.raises(ConfigError, match="give --data once"):
        train_dense(small_config("depth"), data * 2, tmp_path)
    with pytest.raises(DataError):
        train_dense(small_config("detector"), data, tmp_path)


@pytest.mark.parametrize("task", HEADS)
def test_ranks_train_as_one(task: str, datasets: dict[str, Path], tmp_path: Path) -> None:
    """For a detector each rank samples regions of its own images, so its losses are not those of one process."""

    def train(ranks: int, kind: str) -> list[list[float]]:
        settings = [item for item in SMALL if not item.startswith("validation.")] + [*HEADS[task], "validation=null"]
        settings += [f"parallel.kind={kind}", "frozen=false", "drop_path=0.2"]
        out = train_by_ranks(tmp_path / f"{kind}{ranks}", ranks, task, "--data", datasets[task], settings=settings)
        assert (out / "head.safetensors").is_file()
        return losses(out, "depth", "classes", "objectness", "box_reg")

    several = train(2, "ddp")
    assert len(several) == 4 and np.isfinite(several).all()
    if task != "detector":
        one = train(1, "ddp")
        for item, first, second in zip(one, several, train(2, "fsdp"), strict=True):
            assert first == pytest.approx(item, rel=2e-3) and second == pytest.approx(item, rel=2e-3)
