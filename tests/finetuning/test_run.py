"""Finetuning takes the model, the size and the sources from what it is given."""

from __future__ import annotations

import json
from pathlib import Path

from perception_encoder.finetuning.config import FinetuningConfig
from perception_encoder.models.checkpoints.weights import load_model
from perception_encoder.pretraining.run import pretrain
from perception_encoder.recipes import debug_form, override


def test_all_sources_of_the_data_are_trained_on(photos: Path, tmp_path: Path) -> None:
    config = override(debug_form(FinetuningConfig()), ["lora.rank=2", "locked=text"])
    path = pretrain(config, [photos], tmp_path / "run")
    assert load_model(path).name == "PE-Core-N16-128"
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert record["samples"] == {"caltech101": 20, "flowers": 20}
