"""A run of any stage that is interrupted and resumed writes what an uninterrupted one writes, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from perception_encoder.dense_training.run import train_dense
from perception_encoder.errors import CheckpointError
from perception_encoder.models.checkpoints.files import read_checkpoint
from perception_encoder.pretraining.config import LoRA
from perception_encoder.pretraining.recipes import debug_pretraining
from perception_encoder.pretraining.run import pretrain
from perception_encoder.spatial_alignment.run import align_spatially
from perception_encoder.training.config import ValidationConfig
from synthetic.builtin.recipes import builtin
from tests.dense_training.conftest import datasets
from tests.dense_training.datasets import small_config
from tests.recipes import debug_recipe
from tests.spatial_alignment.conftest import scenes
from tests.spatial_alignment.toys import CONFIG as SPATIAL
from tests.training.toys import Interrupted, interrupt_at, rows

__all__ = ["datasets", "scenes"]

VALIDATED = ValidationConfig(every=1, share=0.25)
ADAPTERS = replace(debug_pretraining(builtin()), initial="builtin", lora=LoRA(rank=2), warmup=0, validation=VALIDATED)
WINDOWS = ("windows.size=2", "windows.global_blocks=[2]", "windows.patch_size=8", "drop_path=0.3", "layer=3")
RUNS: dict[str, tuple[Any, Any, str]] = {
    "pairs, adapters, validated": (pretrain, ADAPTERS, "photos"),
    "distillation": (pretrain, debug_recipe("distill_builtin"), "photos"),
    "spatial": (align_spatially, SPATIAL, "scenes"),
    "depth": (train_dense, small_config("depth"), "depth"),
    "segmenter, finetuned": (train_dense, small_config("segmenter", "frozen=false", "validation=null"), "segmenter"),
    "detector": (train_dense, small_config("detector", "validation=null"), "detector"),
    "detector, finetuned in windows": (
        train_dense,
        small_config("detector", "frozen=false", "optimizer.layer_decay=0.8", *WINDOWS, "validation.every=4"),
        "detector",
    ),
}
CLOCK = {"samples_per_second", "waiting", "seconds_left"}


def results(out: Path) -> tuple[list[dict[str, float]], dict[str, dict[str, torch.Tensor]]]:
    reports = [{name: value for name, value in row.items() if name not in CLOCK} for row in rows(out)]
    return reports, {path.name: read_checkpoint(path)[0] for path in out.glob("*.safetensors")}


@pytest.mark.parametrize("name", RUNS)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(
    name: str, photos: Path, scenes: Path, datasets: dict[str, Path], tmp_path: Path
) -> None:
    train, config, kind = RUNS[name]
    data = [{"photos": photos, "scenes": scenes, **datasets}[kind]]
    train(config, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, data, tmp_path / "cut", listener=interrupt_at(3))
    train(config, data, tmp_path / "cut")
    (whole_rows, whole), (resumed_rows, resumed) = results(tmp_path / "whole"), results(tmp_path / "cut")
    assert resumed_rows == whole_rows and [row["step"] for row in whole_rows if "lr" in row] == [1, 2, 3, 4]
    assert resumed.keys() == whole.keys() and len(whole) == 1 + (config.validation is not None)
    for file, tensors in whole.items():
        assert tensors.keys() == resumed[file].keys()
        assert all(torch.equal(tensor, resumed[file][key]) for key, tensor in tensors.items()), file
    with pytest.raises(CheckpointError, match="other settings"):
        train(replace(config, seed=config.seed + 1), data, tmp_path / "cut")
