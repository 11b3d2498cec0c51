"""The recipe of finetuning, and its debug form."""

from __future__ import annotations

import dataclasses

from perception_encoder.finetuning.recipes import debug_finetuning, own_pairs
from perception_encoder.pretraining.lora import LoRA


def test_the_debug_form_has_the_adapters_and_the_validation_of_its_recipe() -> None:
    config = dataclasses.replace(own_pairs(), lora=LoRA(rank=3), locked="text")
    small = debug_finetuning(config)
    assert (small.lora, small.locked, small.steps) == (config.lora, "text", 4)
    assert config.validation is not None and small.validation == dataclasses.replace(config.validation, every=2)
    assert debug_finetuning(dataclasses.replace(config, validation=None)).validation is None


def test_nothing_of_one_s_own_pairs_is_held_out_by_default() -> None:
    assert own_pairs().validation.share == 0
