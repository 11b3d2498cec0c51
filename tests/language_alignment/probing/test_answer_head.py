"""A head learns to read tokens, and what the tokens do not say it cannot."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from perception_encoder.dense_prediction.head_fitting import FitConfig
from perception_encoder.language_alignment.probing.answer_head import AnswerHead, AnswerHeadConfig
from perception_encoder.language_alignment.text.decoder import Decoder
from perception_encoder.language_alignment.text.fresh_decoder import make_fresh_decoder

NAMES = ("red", "green", "blue", "white")
ASKED = [[("What colour?", name), ("Is it red?", "yes" if name == "red" else "no")] for name in NAMES]
CONFIG = AnswerHeadConfig(fit=FitConfig(epochs=8, batch=8, lr=2e-3))


def patches(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, 2, 2, 8) that say a class in one of the four patches, and the classes."""
    generator = np.random.default_rng(seed)
    classes, places = generator.integers(4, size=(2, count))
    values = generator.normal(size=(count, 4, 8)).astype(np.float32) * 0.1 + 7
    values[np.arange(count), places, classes] += 3
    return values.reshape(count, 2, 2, 8), classes


def fresh() -> Decoder:
    texts = [text for turns in ASKED for turn in turns for text in turn]
    return make_fresh_decoder(texts, torch.Generator().manual_seed(0), width=64, layers=2)


def fitted(config: AnswerHeadConfig, values: np.ndarray, classes: np.ndarray) -> AnswerHead:
    head = AnswerHead(8, (2, 2), fresh(), config)
    head.fit(values, [ASKED[each] for each in classes])
    return head


def test_it_answers_by_the_tokens_and_by_chance_without() -> None:
    values, classes = patches(160, 0)
    unseen, right = patches(40, 1)
    head = fitted(CONFIG, values, classes)
    colours = [(row, "What colour?") for row in range(40)]
    answers = head.answer(unseen, colours, 4)
    assert np.mean([NAMES[each] == answer for each, answer in zip(right, answers, strict=True)]) > 0.9
    assert head.answer(unseen, [(3, "Is it red?"), *colours[:2]], 4)[1:] == answers[:2], "each is about its own image"
    blind = fitted(CONFIG, np.zeros_like(values), classes).answer(unseen * 0, colours, 4)
    assert len(set(blind)) == 1


@pytest.mark.parametrize("config", [replace(CONFIG, pool=2), replace(CONFIG, linear=True)], ids=["pooled", "linear"])
def test_projectors(config: AnswerHeadConfig) -> None:
    values, classes = patches(160, 0)
    unseen, right = patches(40, 1)
    answers = fitted(config, values, classes).answer(unseen, [(row, "What colour?") for row in range(40)], 4)
    assert np.mean([NAMES[each] == answer for each, answer in zip(right, answers, strict=True)]) > 0.7


def test_a_frozen_language_model_stays_what_it_is() -> None:
    values, classes = patches(16, 0)
    config = replace(CONFIG, frozen=True, fit=FitConfig(epochs=1, batch=8))
    head, other = fitted(config, values, classes), fitted(replace(config, frozen=False), values, classes)
    fresh = make_fresh_decoder(
        [t for turns in ASKED for turn in turns for t in turn], torch.Generator().manual_seed(0), 64, 2
    )
    for name, value in fresh.model.state_dict().items():
        assert torch.equal(value, head.decoder.model.state_dict()[name])
    assert not torch.equal(other.decoder.model.state_dict()[name], value)
