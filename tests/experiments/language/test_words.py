"""Words: patches are drawn to embeddings, and what is written is an earlier stage of a language alignment."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.language.word_targets import IGNORED, Labelled
from experiments.language.words import (
    WordConfig,
    align_words,
)
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import LanguageTrainee
from perception_encoder.language_alignment.weights import read_trained
from perception_encoder.training.optimizer import OptimizerConfig
from tests.language_models import write_tiny_decoder

WORDS = ["_", "red", "blue"]


@pytest.fixture
def config(tmp_path: Path) -> WordConfig:
    decoder = str(write_tiny_decoder(tmp_path / "decoder"))
    model = LanguageConfig(decoder=decoder, context=300, image_size=32, pool=1)
    optimizer = OptimizerConfig(name="adamw", lr=3e-3)
    return WordConfig(model=model, steps=20, batch_size=8, warmup=2, log_every=1, optimizer=optimizer)


def images(count: int) -> list[Labelled]:
    """Images of 32 px that are red on one side and blue on the other."""
    rows, generator = [], np.random.default_rng(0)
    for number in range(count):
        colours = generator.integers(2, size=(2, 2))
        pixels = np.zeros((2, 2, 3), np.uint8)
        pixels[colours == 0, 0], pixels[colours == 1, 2] = 220, 220
        stream = io.BytesIO()
        Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST).save(stream, "PNG")
        words = (1 + colours).ravel().astype(np.int16)
        none, boxes = np.full(4, IGNORED, np.int16), np.full((4, 4), IGNORED, np.int16)
        boxes[0] = 0, 0, 49, 49
        rows.append(Labelled(str(number), stream.getvalue(), words, none if number % 2 else colours.ravel(), boxes))
    return rows


def test_a_run_writes_what_a_later_stage_reads(config: WordConfig, tmp_path: Path) -> None:
    labelled = [replace(image, patches=image.colours, label=1) for image in images(4)]
    path = align_words(config, {"scenes": images(40), "labelled": labelled}, WORDS, [1, 2], tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == config.steps and rows[-1]["scenes"] < 0.6 * rows[0]["scenes"]
    parts, weights = read_trained(path)
    assert {name.split(".")[0] for name in weights} == {"projector", "vision"} and parts.pool == 1
    later = LanguageTrainee(replace(config.model, initial=str(path)))
    assert later.vision_trained and not later.decoder_trained
