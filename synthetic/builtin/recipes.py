"""Recipes of the built-in models.

PE-Core-N16-128 is trained on public photographs and drawings, twice two hours on two cores: `builtin` is its first run,
from random weights; `builtin_second` starts from it, and is what the package has. Progressive resolution, LAMB, the
paper's augmentation with a milder crop, and captions drawn anew at every step.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

from perception_encoder.data.pairs import ResolutionStage
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import align_language
from perception_encoder.language_models.decoder import SMOLLM2, DecoderLoRA
from perception_encoder.models.registry import BUILTIN
from perception_encoder.preprocess.augmentation import Augmentation, Mixing
from perception_encoder.pretraining.config import PretrainingConfig
from perception_encoder.pretraining.recipes import core_n16
from perception_encoder.pretraining.run import pretrain
from perception_encoder.progress import Track
from perception_encoder.stages import LANGUAGE_ALIGNMENT, PRETRAINING
from perception_encoder.training.config import ValidationConfig
from perception_encoder.training.optimizer import OptimizerConfig
from synthetic.builtin.rules import read_builtin
from synthetic.questions.conversations import SceneRecords

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
    return dataclasses.replace(core_n16(), weights=WEIGHTS)


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
            ResolutionStage(image_size=64, steps=2400),
            ResolutionStage(image_size=96, steps=1100),
            ResolutionStage(image_size=128, steps=400),
        ),
        weights=photographs | dict.fromkeys(EMOJI, 0.28 / len(EMOJI)),
        warmup=60,
        optimizer=OptimizerConfig(lr=3e-3, plain_lr=1e-2),
        augmentation=Augmentation(scale=(0.3, 1.0)),
        mixing=Mixing(),
    )


def language_builtin() -> LanguageConfig:
    """The built-in language model: projector and adapters of SmolLM2-135M, on the features of the aligned encoder.

    6,000 samples (1,000 steps of 6), images alone. It begins with what `python -m experiments.language.words` wrote.
    Questions are set apart, so that one pass over an image's tokens serves them all, as many as a row of 400 tokens has
    room for; a video gives one frame.
    """
    return LanguageConfig(
        encoder=BUILTIN,
        decoder=SMOLLM2,
        training_context=400,
        image_size=224,
        pool=1,
        frames=1,
        initial="runs/language_builtin_words/language.safetensors",
        train_decoder=True,
        lora=DecoderLoRA(rank=8, alpha=16),
        apart=True,
        steps=1_000,
        batch_size=6,
        warmup=30,
        optimizer=OptimizerConfig(name="adamw", lr=1e-3),
        validation=ValidationConfig(every=500, share=0.01, size=120),
        checkpoint_every=100,
    )


def _align_on_scenes(config: LanguageConfig, data: list[Path], out: Path, track: Track, listener: Any) -> Path:
    return align_language(config, data, out, track, listener, partial(SceneRecords, apart=config.apart))


STAGES = (
    dataclasses.replace(
        PRETRAINING,
        run=partial(pretrain, read=read_builtin),
        streams=False,
        recipes={
            "builtin": ("the built-in model, first edition: two hours on 2 cores", builtin),
            "builtin_second": ("the built-in model, second edition: two more hours on mixed images", builtin_second),
        },
    ),
    dataclasses.replace(
        LANGUAGE_ALIGNMENT,
        run=_align_on_scenes,
        recipes={"language_builtin": ("the built-in language model: two hours on 2 cores", language_builtin)},
    ),
)
"""The stages of the product, with the rules of the built-in models' data, and scenes as conversations."""
