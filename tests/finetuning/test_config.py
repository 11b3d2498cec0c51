"""The settings of a finetuning."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from perception_encoder.errors import ConfigError
from perception_encoder.finetuning.config import FinetuningConfig
from perception_encoder.models.checkpoints.weights import create_model, write_checkpoint
from perception_encoder.recipes import override


def test_the_model_and_the_size_are_those_of_the_weights(tmp_path: Path) -> None:
    run = FinetuningConfig().pretraining()
    assert (run.model, run.initial, run.steps) == ("PE-Core-N16-128", "PE-Core-N16-128", 300)
    assert [stage.image_size for stage in run.stages] == [128] and run.image_side >= 128
    path = tmp_path / "tiny.safetensors"
    write_checkpoint(create_model("PE-Core-T16-384"), path, half=True)
    run = FinetuningConfig(initial=str(path), locked="visual", batch_size=8).pretraining()
    assert (run.model, run.stages[0].image_size, run.locked, run.batch_size) == ("PE-Core-T16-384", 384, "visual", 8)
    assert FinetuningConfig(image_size=64).pretraining().stages[0].image_size == 64


def test_the_default_rate_is_small_enough_for_trained_weights() -> None:
    """A hundredth of pretraining's; docs/finetuning.md names it."""
    assert FinetuningConfig().optimizer.lr == 1e-4


def test_every_setting_reaches_the_run() -> None:
    """A field that `pretraining` forgot would differ from the run's, or from its default."""
    config = override(
        FinetuningConfig(),
        ["warmup=3", "balance=0.25", "optimizer.lr=1e-2", "augmentation=null", "parallel.chunk=2", "seed=7"],
    )
    more = ["log_every=5", "checkpoint_every=6", "lora.rank=2", "streams.resampled=true", "initial_share=0.2"]
    config = override(config, more)
    run = config.pretraining()
    own = {field.name for field in dataclasses.fields(config)} - {"steps", "image_size"}
    assert {name: getattr(run, name) for name in own} == {name: getattr(config, name) for name in own}


def test_a_model_without_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "PE-Spatial-T16-512.safetensors"
    write_checkpoint(create_model("PE-Spatial-T16-512"), path)
    with pytest.raises(ConfigError, match="no text tower; finetuning on pairs needs both"):
        FinetuningConfig(initial=str(path)).pretraining()
