"""The perception language model: where image tokens go, and which tokens see which."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from perception_encoder.errors import ShapeError
from perception_encoder.language_alignment.model import scales_logits
from perception_encoder.language_alignment.text.prompt import IGNORED
from tests.language_models import tiny_language_model

MODEL = tiny_language_model().model
PIXELS = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def test_image_tokens_take_the_marked_positions_in_order() -> None:
    tokens = MODEL.project(MODEL.image_features(PIXELS), (4, 6))  # (2, 6, 32)
    ids = torch.arange(20)[None].repeat(2, 1)
    is_image = torch.zeros(2, 20, dtype=torch.bool)
    is_image[0, 3:9] = is_image[1, 10:16] = True
    embeddings = MODEL.embed(ids, is_image, tokens.flatten(0, 1))
    torch.testing.assert_close(embeddings[0, 3:9], tokens[0])
    torch.testing.assert_close(embeddings[1, 10:16], tokens[1])
    plain = MODEL.decoder.get_input_embeddings()(ids)
    torch.testing.assert_close(embeddings[~is_image], plain[~is_image])
    logits = MODEL(ids, is_image, PIXELS)
    torch.testing.assert_close(logits, MODEL.decoder(inputs_embeds=embeddings).logits)


def test_the_class_token_is_removed() -> None:
    features = MODEL.image_features(PIXELS)
    assert features.shape == (2, 24, 16)
    torch.testing.assert_close(features, MODEL.vision.forward_features(PIXELS, norm=False)[:, 1:])


def test_losses_are_those_of_the_labelled_tokens() -> None:
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(ids, IGNORED)
    labels[0, 5:8], labels[1, 11] = ids[0, 5:8], ids[1, 11]
    embeddings = MODEL.decoder.get_input_embeddings()(ids)
    logits = MODEL.decoder(inputs_embeds=embeddings).logits
    expected = [F.cross_entropy(logits[row, at - 1], ids[row, at]) for row, at in ((0, 5), (0, 6), (0, 7), (1, 11))]
    torch.testing.assert_close(MODEL.token_losses(embeddings, labels), torch.stack(expected))


def test_other_samples_of_a_batch_and_its_padding_change_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    short, long = (torch.rand(1, length, 32, generator=generator) for length in (7, 15))
    labels = torch.full((2, 15), IGNORED)
    labels[0, 4:7] = 5
    alone = MODEL.token_losses(short, labels[:1, :7])
    for other in (long, 100 * long):
        padded = torch.cat([torch.cat([short, other[:, 7:]], dim=1), other])  # noise for padding
        torch.testing.assert_close(MODEL.token_losses(padded, labels), alone)


def test_parts_of_a_row_see_the_shared_start_and_themselves_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    shared, first, second = (torch.rand(1, length, 32, generator=generator) for length in (5, 4, 6))
    parts = torch.tensor([[0] * 5 + [1] * 4 + [2] * 6])
    labels = torch.full((1, 15), IGNORED)
    labels[0, 7:9], labels[0, 12:15] = 5, 9
    losses = MODEL.token_losses(torch.cat([shared, first, second], dim=1), labels, parts)
    alone = [
        MODEL.token_losses(
            torch.cat([shared, own], dim=1), torch.cat([labels[:, :5], labels[:, at : at + count]], dim=1)
        )
        for own, at, count in ((first, 5, 4), (second, 9, 6))
    ]
    torch.testing.assert_close(losses, torch.cat(alone))
    other = MODEL.token_losses(torch.cat([shared, 100 * first, second], dim=1), labels, parts)
    torch.testing.assert_close(other[2:], losses[2:])


@torch.no_grad()
def test_scores_are_of_rows_or_of_parts() -> None:
    embeddings = torch.rand(2, 12, 32, generator=torch.Generator().manual_seed(4))
    parts = torch.tensor([[0] * 4 + [1] * 4 + [2] * 4, [0] * 12])
    best = [
        MODEL.decoder(inputs_embeds=embeddings[:1, seen]).logits[0, :-1].argmax(-1)
        for seen in ([*range(8)], [*range(4), *range(8, 12)])
    ]
    labels = torch.full((2, 12), IGNORED)
    labels[0, 5:8], labels[0, 9:12] = best[0][4:7], best[1][4:7]
    labels[1, 3] = MODEL.decoder(inputs_embeds=embeddings[1:]).logits[0, 2].argmax(-1)
    assert MODEL.token_scores(embeddings, labels, parts)[1].tolist() == [True, True, True]
    labels[0, 10] = (labels[0, 10] + 1) % 256
    assert MODEL.token_scores(embeddings, labels, parts)[1].tolist() == [True, False, True]
    assert MODEL.token_scores(embeddings[1:], labels[1:])[1].tolist() == [True]


def test_a_wrong_number_of_image_tokens_is_an_error() -> None:
    ids = torch.zeros(1, 4, dtype=torch.long)
    with pytest.raises(ShapeError, match="3 image tokens for 4 marked positions"):
        MODEL.embed(ids, torch.ones(1, 4, dtype=torch.bool), torch.zeros(3, 32))


def test_models_that_change_their_logits_are_known() -> None:
    from transformers import Gemma2Config, GraniteConfig, LlamaConfig

    assert scales_logits(Gemma2Config()) and scales_logits(GraniteConfig(logits_scaling=8.0))
    assert not scales_logits(LlamaConfig())
