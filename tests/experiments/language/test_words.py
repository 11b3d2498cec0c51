"""Words: patches are drawn to embeddings, and what is written is an earlier stage of a language alignment."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.language.word_targets import IGNORED, Labelled
from experiments.language.words import (
    LOSS_WEIGHTS,
    WordBatches,
    WordConfig,
    WordModel,
    WordTask,
    align_words,
    calibrate,
    word_embeddings,
)
from perception_encoder.language_alignment.config import LanguageConfig
from perception_encoder.language_alignment.run import LanguageTrainee
from perception_encoder.language_alignment.weights import build_language_model, read_trained
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


def test_patches_of_one_batch_find_their_words(config: WordConfig) -> None:
    """Every target can be learned from the patches: each loss falls on a batch that is seen again and again."""
    torch.manual_seed(0)
    model, decoder = build_language_model(config.model.parts, torch.Generator())
    words = WordModel(model, word_embeddings(decoder, WORDS), grid=2)
    task, optimizer = WordTask(words, [1, 2]), torch.optim.AdamW(words.parameters(), lr=1e-3)
    scenes = images(8)
    labelled = [replace(image, label=int(image.patches[0])) for image in images(4)]
    documents = [replace(image, symmetric=False) for image in scenes]
    batch = WordBatches({"all": [*labelled, *scenes, *documents]}, replace(config, batch_size=16))(0)
    losses = []
    for _ in range(80):
        losses.append(task.losses(batch))
        optimizer.zero_grad()
        sum(losses[-1].values(), torch.zeros(())).backward()
        optimizer.step()
    assert set(losses[0]) == set(LOSS_WEIGHTS)
    ratios = {name: float((losses[-1][name] / losses[0][name]).detach()) for name in LOSS_WEIGHTS}
    assert max(ratios.values()) < 0.8, ratios


def test_a_run_writes_what_a_later_stage_reads(config: WordConfig, tmp_path: Path) -> None:
    labelled = [replace(image, patches=image.colours, label=1) for image in images(4)]
    path = align_words(config, {"scenes": images(40), "labelled": labelled}, WORDS, [1, 2], tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == config.steps and rows[-1]["scenes"] < 0.6 * rows[0]["scenes"]
    parts, weights = read_trained(path)
    assert {name.split(".")[0] for name in weights} == {"projector", "vision"} and parts.pool == 1
    later = LanguageTrainee(replace(config.model, initial=str(path)))
    assert later.vision_trained and not later.decoder_trained


def test_a_later_run_goes_on_from_the_weights_of_an_earlier_one(config: WordConfig, tmp_path: Path) -> None:
    first = align_words(replace(config, steps=2), {"scenes": images(8)}, WORDS, [1, 2], tmp_path / "first")
    none = OptimizerConfig(name="adamw", lr=1e-300)
    later = replace(config, initial=str(first), steps=2, optimizer=none)
    second = align_words(later, {"scenes": images(8)}, WORDS, [1, 2], tmp_path / "second")
    weights = [read_trained(path)[1] for path in (first, second)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0] if name.startswith("vision"))


@torch.no_grad()
def test_projected_patches_get_the_scale_of_the_embeddings(config: WordConfig) -> None:
    model, _ = build_language_model(config.model.parts, torch.Generator())
    pixels = torch.rand(4, 3, 32, 32) * 2 - 1
    before = model.image_tokens(pixels)
    calibrate(model, pixels)
    table = model.decoder.get_input_embeddings().weight.detach()
    after = model.image_tokens(pixels) - table.mean(0)
    assert after.norm(dim=-1).mean() == pytest.approx(float((table - table.mean(0)).norm(dim=1).mean()), rel=1e-3)
    torch.testing.assert_close(after / after.norm(), before / before.norm(), atol=1e-4, rtol=1e-3)
