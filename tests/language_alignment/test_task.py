"""The task of language alignment: which tokens have a loss, and what the parts of ranks add up to."""

from __future__ import annotations

import torch
from PIL import Image

from perception_encoder.language_alignment.language_model import LanguageModel
from perception_encoder.language_alignment.task import (
    Example,
    HeldOutAnswers,
    LanguageAlignmentTask,
    collate,
)
from perception_encoder.language_alignment.text.prompt import IGNORED, Prompt
from perception_encoder.language_alignment.text.reading import TorchReader, generate_tokens
from perception_encoder.preprocess.conversation import Message, Sampling, ask
from perception_encoder.preprocess.tiling import media_pixels
from perception_encoder.training.task import is_better
from tests.language_models import tiny_language_model

NOISE = Image.effect_noise((64, 64), 90).convert("RGB")


def example(model: LanguageModel, answer: str, images: int = 1) -> Example:
    media = [NOISE] * images
    messages = [*ask("what?", media), Message("assistant", (answer,))]
    pixels = [media_pixels(item, model.media, False) for item in media]
    prompt = model.decoder.prompts.training_prompt(messages, [4 * len(pixel) for pixel in pixels])
    return Example(prompt, torch.cat(pixels) if pixels else torch.zeros(0, 3, 32, 32))


SHORT = Example(
    Prompt([5, 0, 0, 6], [IGNORED, IGNORED, IGNORED, 6], [False, True, True, False]), torch.zeros(1, 3, 8, 8)
)
LONG = Example(Prompt([7, 8, 9, 1, 2, 3], [7, IGNORED, IGNORED, 1, 2, 3], [False] * 6), torch.ones(2, 3, 8, 8))


def test_rows_are_padded_on_the_right_without_labels() -> None:
    batch = collate([SHORT, LONG], step=3)
    assert batch.ids.tolist() == [[5, 0, 0, 6, 0, 0], [7, 8, 9, 1, 2, 3]]
    assert batch.labels[0].tolist() == [IGNORED, IGNORED, IGNORED, 6, IGNORED, IGNORED]
    assert batch.is_image.tolist() == [[False, True, True, False, False, False], [False] * 6]
    assert batch.images.shape == (3, 3, 8, 8) and batch.parts is None
    assert (len(batch), batch.step) == (2, 3)
    assert len(collate([SHORT, LONG], step=3, rows=8)) == 8  # of all ranks


def test_answer_tokens_are_those_with_a_loss_over_all_ranks() -> None:
    assert collate([SHORT, LONG], 0).answer_tokens == 1 + 3  # a row's first token has none
    assert collate([SHORT], 0, lambda count: count + 10).answer_tokens == 11


def test_a_batch_moves_with_its_counts() -> None:
    moved = collate([SHORT], 4).to(torch.device("meta"))
    assert moved.ids.is_meta and (moved.step, moved.answer_tokens) == (4, 1)


def test_the_loss_is_the_mean_over_the_answers_tokens_of_all_ranks() -> None:
    model = tiny_language_model()
    task = LanguageAlignmentTask(model.model, 0.0, 0)
    examples = [example(model, "a cup"), example(model, "no", images=0), example(model, "two dogs", images=2)]
    whole = task.losses(collate(examples, 0))["next_token"]
    count = sum(item.answer_tokens for item in examples)
    parts = [task.losses(collate(some, 0, lambda _: count))["next_token"] for some in (examples[:1], examples[1:])]
    torch.testing.assert_close(parts[0] + parts[1], whole)
    by_hand = [task.losses(collate([item], 0))["next_token"] * item.answer_tokens for item in examples]
    torch.testing.assert_close(torch.stack(by_hand).sum() / count, whole)


def test_features_give_the_loss_of_their_pixels() -> None:
    model = tiny_language_model()
    task = LanguageAlignmentTask(model.model, 0.0, 0)
    pixels = example(model, "a cup")
    features = Example(pixels.prompt, model.model.image_features(pixels.images).detach())
    torch.testing.assert_close(task.losses(collate([features], 0)), task.losses(collate([pixels], 0)))


def test_stochastic_depth_is_drawn_from_the_seed_and_the_step() -> None:
    model = tiny_language_model()
    batch = [example(model, "a cup")]

    def loss(step: int, seed: int = 0, rate: float = 0.5) -> float:
        task = LanguageAlignmentTask(model.model, rate, seed)
        return task.losses(collate(batch, step))["next_token"].item()

    assert loss(0) == loss(0)
    assert len({loss(step) for step in range(6)}) > 1
    assert {loss(step, rate=0.0) for step in range(3)} == {loss(0, rate=0.0)}


def test_an_answer_is_exact_if_generation_gives_it() -> None:
    model = tiny_language_model(tiles=0)
    conversation = ask("what?", [NOISE])
    start, _ = model._prompt(conversation, Sampling(max_tokens=3))
    tokens = [
        row[0]
        for row in generate_tokens(TorchReader(model.model.decoder), [start], frozenset(), Sampling(max_tokens=3))
    ]
    scores = []
    for change in (0, 1):
        prompt = model.decoder.prompts.training_prompt([*conversation, Message("assistant", ("abc",))], [4])
        first = next(number for number, label in enumerate(prompt.labels) if label >= 0)
        answer = [*tokens[:2], (tokens[2] + change) % 256]
        prompt.ids[first : first + 3] = prompt.labels[first : first + 3] = answer
        prompt.labels[first + 3] = IGNORED  # the end of the turn, which the tiny model does not give
        batch = collate([Example(prompt, media_pixels(NOISE, model.media))], 0)
        with torch.no_grad():
            scores.append(HeldOutAnswers(model.model, [batch]).validate("exact"))
    assert [score["exact"] for score in scores] == [1.0, 0.0]
    for metric, higher in HeldOutAnswers.higher_is_better.items():
        assert is_better(scores[0][metric], scores[1][metric], higher), metric
    assert scores[0]["loss"] < scores[1]["loss"]
