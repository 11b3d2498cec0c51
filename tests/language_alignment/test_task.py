"""The task of language alignment: which tokens have a loss, and what the parts of ranks add up to."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from perception_encoder.language_alignment.task import HeldOutAnswers, LanguageAlignmentTask
from perception_encoder.language_models.model import collate
from perception_encoder.language_models.prompt import IGNORED, Prompt
from perception_encoder.preprocess.conversation import Message, ask
from perception_encoder.preprocess.tiling import media_pixels
from perception_encoder.training.loop import is_better
from tests.tiny_language_models import tiny_language_model

NOISE = Image.effect_noise((64, 64), 90).convert("RGB")
MODEL = tiny_language_model()


def example(answer: str, images: int = 1) -> tuple[Prompt, torch.Tensor]:
    media = [NOISE] * images
    messages = [*ask("what?", media), Message("assistant", (answer,))]
    pixels = [media_pixels(item, MODEL.media, False) for item in media]
    prompt = MODEL.decoder.prompts.training_prompt(messages, [4 * len(pixel) for pixel in pixels])
    return prompt, torch.cat(pixels) if pixels else torch.zeros(0, 3, 32, 32)


def test_rows_are_padded_on_the_right_without_labels() -> None:
    short = Prompt([5, 0, 0, 6], [IGNORED, IGNORED, IGNORED, 6], [False, True, True, False])
    long = Prompt([7, 8, 9, 1, 2, 3], [7, IGNORED, IGNORED, 1, 2, 3], [False] * 6)
    batch = collate([(short, torch.zeros(1, 3, 8, 8)), (long, torch.ones(2, 3, 8, 8))], step=3)
    assert batch.ids.tolist() == [[5, 0, 0, 6, 0, 0], [7, 8, 9, 1, 2, 3]]
    assert batch.labels[0].tolist() == [IGNORED, IGNORED, IGNORED, 6, IGNORED, IGNORED]
    assert batch.is_image.tolist() == [[False, True, True, False, False, False], [False] * 6]
    assert batch.images.shape == (3, 3, 8, 8) and batch.parts is None
    assert (len(batch), batch.step, batch.answer_tokens) == (2, 3, 1 + 3)  # a row's first token has no loss
    moved = batch.to(torch.device("meta"))
    assert moved.ids.is_meta and (moved.step, moved.answer_tokens) == (3, 4)


@torch.no_grad()
def test_a_batch_may_mix_prompts_with_and_without_parts() -> None:
    """Each is computed as alone, whichever comes first."""
    prompt, pixels = example("abc")
    parts = [0 if label == IGNORED else 1 + number % 2 for number, label in enumerate(prompt.labels)]
    examples = [(prompt, pixels), (replace(prompt, parts=parts), pixels), example("a longer answer")]
    assert collate(examples, 0).parts[0].tolist() == [0] * len(examples[2][0].ids)
    alone = [collate([item], 0) for item in examples]
    sums = [float(MODEL.model(b.ids, b.labels, b.is_image, b.images, b.parts)[0].sum()) for b in alone]
    assert sums[0] != pytest.approx(sums[1], rel=1e-3)
    for mixed in (examples, examples[::-1]):
        batch = collate(mixed, 0)
        losses, _ = MODEL.model(batch.ids, batch.labels, batch.is_image, batch.images, batch.parts)
        assert float(losses.sum()) == pytest.approx(sum(sums), rel=2e-2)
        held_out = HeldOutAnswers(MODEL.model, [batch]).validate("loss")
        assert held_out["loss"] == pytest.approx(sum(sums) / len(losses), rel=2e-2)


def test_the_loss_is_the_mean_over_the_answers_tokens_of_all_ranks() -> None:
    task = LanguageAlignmentTask(MODEL.model, 0.0, 0)
    batches = [collate([item], 0) for item in (example("a cup"), example("no", 0), example("two dogs", 2))]
    whole = task.losses(collate([example("a cup"), example("no", 0), example("two dogs", 2)], 0))["next_token"]
    count = sum(batch.answer_tokens for batch in batches)
    parts = [task.losses(replace(batch, answer_tokens=count))["next_token"] for batch in batches]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


def test_features_give_the_loss_of_their_pixels() -> None:
    task = LanguageAlignmentTask(MODEL.model, 0.0, 0)
    prompt, pixels = example("a cup")
    features = MODEL.model.image_features(pixels).detach()
    losses = [task.losses(collate([(prompt, images)], 0)) for images in (features, pixels)]
    torch.testing.assert_close(*losses)


def test_stochastic_depth_is_drawn_from_the_seed_and_the_step() -> None:
    batch = [example("a cup")]

    def loss(step: int, rate: float = 0.5) -> float:
        return LanguageAlignmentTask(MODEL.model, rate, 0).losses(collate(batch, step))["next_token"].item()

    assert loss(0) == loss(0)
    assert len({loss(step) for step in range(6)}) > 1
    assert {loss(step, rate=0.0) for step in range(3)} == {loss(0, rate=0.0)}


@torch.no_grad()
def test_an_answer_is_exact_if_all_its_tokens_are_the_most_probable_ones() -> None:
    """Of rows, and of the independent questions of a row."""
    asked = MODEL.decoder.prompts.training_prompt([*ask("what?", [NOISE]), Message("assistant", ("abc",))], [4])
    pixels = media_pixels(NOISE, MODEL.media, False)
    parts = [0 if label == IGNORED else 1 + number % 2 for number, label in enumerate(asked.labels)]
    for split in (None, parts):
        batch = collate([(replace(asked, parts=split), pixels)] * 2, 0)
        labelled = batch.labels[:, 1:] != IGNORED
        for _ in range(4):  # every token is chosen after the ones before it
            embeddings = MODEL.model.embed(
                batch.ids, batch.is_image, MODEL.model.image_tokens(batch.images).flatten(0, 1)
            )
            chosen = MODEL.model._logits(embeddings[:, :-1], labelled, batch.parts).argmax(-1)
            batch.ids[:, 1:][labelled] = batch.labels[:, 1:][labelled] = chosen
        wrong = replace(batch, labels=batch.labels.clone())
        first = int(labelled[1].nonzero()[0]) + 1
        wrong.labels[1, first] = (wrong.labels[1, first] + 1) % 256
        scores = [HeldOutAnswers(MODEL.model, [item]).validate("exact") for item in (batch, wrong)]
        assert [score["exact"] for score in scores] == [1.0, 0.5 if split is None else 0.75]
        for metric, higher in HeldOutAnswers.higher_is_better.items():
            assert is_better(scores[0][metric], scores[1][metric], higher), metric
