"""Recipes of the built-in model: PE-Core-N16-128 from public photographs and drawings, twice two hours on two cores.

`builtin` is the first edition, from random weights; `builtin_second` goes on from it, and is what the package has.

Progressive resolution, LAMB, the paper's augmentation with a milder crop (the dataset is small and its images are
already cut to their subject), and captions drawn anew at every step.
"""

from __future__ import annotations

import dataclasses

from perception_encoder.data.pairs import Stage
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.mixing import Mixing
from perception_encoder.pretraining.config import BUILTIN_RULES, PretrainingConfig
from perception_encoder.pretraining.masking import MaskRegularization
from perception_encoder.pretraining.recipes import debug_pretraining
from perception_encoder.train.optimizer import OptimizerConfig

WEIGHTS = {
    "caltech101": 0.32,
    "clothing": 0.22,
    "grocery": 0.18,
    "flowers": 0.10,
    "openclipart": 0.08,
    "noto": 0.05,
    "twemoji": 0.05,
}

EMOJI = ("noto", "noto_outlined", "noto_line", "twemoji", "twemoji_outlined", "twemoji_line")


def builtin() -> PretrainingConfig:
    """The run of the first edition: 985,600 pairs.

    Run again, its weights come out a little different. They were trained before the position table was resampled at
    each switch of resolution: every step resampled the final table, as large as it was drawn, to its own grid. And
    crops larger than the image were clipped to it then (in both editions), so they covered more of it; now they are
    redrawn. Tables do not decay (`decay_tables`).
    """
    return PretrainingConfig(
        model=BUILTIN,
        stages=(
            Stage(image_size=64, steps=2500),
            Stage(image_size=96, steps=1050),
            Stage(image_size=128, steps=300),
        ),
        rules=BUILTIN_RULES,
        weights=WEIGHTS,
        optimizer=OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        augmentation=Augmentation(scale=(0.25, 1.0)),
    )


def builtin_second() -> PretrainingConfig:
    """The run of the second edition: 998,400 pairs more, most images mixed, with the text tower locked.

    The first had learned its few images by heart; mixtures are new at every step. Emoji are drawn in six ways instead
    of two: what these have in common is what they show. Averaged with the first at the end: of shares from 0 to 0.5,
    0.3 was best on `val`.
    """
    photographs = {name: 0.8 * share for name, share in WEIGHTS.items() if name not in EMOJI}
    return PretrainingConfig(
        model=BUILTIN,
        initial="runs/builtin/model.safetensors",
        initial_share=0.3,
        locked="text",
        stages=(
            Stage(image_size=64, steps=2400),
            Stage(image_size=96, steps=1100),
            Stage(image_size=128, steps=400),
        ),
        rules=BUILTIN_RULES,
        weights=photographs | dict.fromkeys(EMOJI, 0.28 / len(EMOJI)),
        warmup=60,
        optimizer=OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        augmentation=Augmentation(scale=(0.3, 1.0)),
        mixing=Mixing(),
    )


def debug() -> PretrainingConfig:
    """The same in four steps, with every step of section 2.1, for tests."""
    return dataclasses.replace(debug_pretraining(builtin()), masking=MaskRegularization(every=4))
