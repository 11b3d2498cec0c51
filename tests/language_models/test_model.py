"""The perception language model and its projector."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from perception_encoder.errors import ConfigError, ShapeError
from perception_encoder.language_models.model import Projector, scales_logits
from perception_encoder.language_models.prompt import IGNORED
from tests.golden_weights import golden_image, golden_tensor
from tests.tiny_language_models import tiny_language_model

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "plm.npz")
MODEL = tiny_language_model().model
PIXELS = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("projector/")])
def test_outputs_are_those_of_the_reference(name: str) -> None:
    seed, grid, width, dim, pool = map(int, re.findall(r"\d+", name))
    projector = Projector(width, dim, pool)
    for key, parameter in projector.named_parameters():
        parameter.data = golden_tensor(key, tuple(parameter.shape))
    tokens = golden_image(seed, 2, grid**2, width)
    np.testing.assert_allclose(projector(tokens).detach().numpy(), GOLDEN[name], rtol=1e-4, atol=1e-5)


def test_any_grid_is_pooled_by_rows_and_columns_rounded_down_but_not_to_zero() -> None:
    projector = Projector(4, 4, pool=2, linear=True)
    torch.nn.init.eye_(projector.projector[0].weight)
    torch.nn.init.zeros_(projector.projector[0].bias)
    tokens = torch.arange(2 * 6 * 4, dtype=torch.float32).view(1, 12, 4)
    image = tokens.view(2, 6, 4)
    expected = torch.stack([image[:, column : column + 2].mean((0, 1)) for column in (0, 2, 4)])
    torch.testing.assert_close(projector(tokens, (2, 6))[0], expected)
    for grid, count in (((2, 6), 3), ((5, 3), 2), ((1, 3), 1)):
        assert projector(torch.zeros(1, grid[0] * grid[1], 4), grid).shape == (1, projector.tokens_of(grid), 4)
        assert projector.tokens_of(grid) == count


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(ShapeError, match="12 tokens do not fill a grid of 3 x 3"):
        Projector(4, 4)(torch.zeros(1, 12, 4))
    with pytest.raises(ConfigError, match="must be at least 1"):
        Projector(4, 4, pool=0)
    with pytest.raises(ShapeError, match="3 image tokens for 4 marked positions"):
        MODEL.embed(
            torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool), torch.zeros(3, MODEL.projector.dim)
        )


def test_image_tokens_take_the_marked_positions_in_order() -> None:
    features = MODEL.image_features(PIXELS)
    assert features.shape == (2, 24, 16), "without the class token"
    torch.testing.assert_close(features, MODEL.vision.forward_features(PIXELS, norm=False)[:, 1:])
    tokens = MODEL.image_tokens(PIXELS)  # (2, 6, 32)
    ids = torch.arange(20)[None].repeat(2, 1)
    is_image = torch.zeros(2, 20, dtype=torch.bool)
    is_image[0, 3:9] = is_image[1, 10:16] = True
    embeddings = MODEL.embed(ids, is_image, tokens.flatten(0, 1))
    torch.testing.assert_close(embeddings[0, 3:9], tokens[0])
    torch.testing.assert_close(embeddings[1, 10:16], tokens[1])
    plain = MODEL.decoder.get_input_embeddings()(ids)
    torch.testing.assert_close(embeddings[~is_image], plain[~is_image])
    logits = MODEL.logits(ids, is_image, PIXELS)
    torch.testing.assert_close(logits, MODEL.decoder(inputs_embeds=embeddings).logits)


def test_losses_are_those_of_the_labelled_tokens() -> None:
    ids = torch.randint(0, 256, (2, 12), generator=torch.Generator().manual_seed(1))
    labels = torch.full_like(ids, IGNORED)
    labels[0, 5:8], labels[1, 11] = ids[0, 5:8], ids[1, 11]
    embeddings = MODEL.decoder.get_input_embeddings()(ids)
    logits = MODEL.decoder(inputs_embeds=embeddings).logits
    labelled = ((0, 5), (0, 6), (0, 7), (1, 11))
    expected = [F.cross_entropy(logits[row, at - 1], ids[row, at]) for row, at in labelled]
    losses, right = MODEL.token_losses(embeddings, labels)
    torch.testing.assert_close(losses, torch.stack(expected))
    assert right.tolist() == [bool(logits[row, at - 1].argmax() == ids[row, at]) for row, at in labelled]


def test_other_samples_of_a_batch_and_its_padding_change_nothing() -> None:
    generator = torch.Generator().manual_seed(2)
    short, long = (torch.rand(1, length, 32, generator=generator) for length in (7, 15))
    labels = torch.full((2, 15), IGNORED)
    labels[0, 4:7] = 5
    alone, _ = MODEL.token_losses(short, labels[:1, :7])
    for other in (long, 100 * long):
        padded = torch.cat([torch.cat([short, other[:, 7:]], dim=1), other])  # noise for padding
        torch.testing.assert_close(MODEL.token_losses(padded, labels)[0], alone)


def test_parts_of_a_row_see_the_shared_start_and_themselves_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    shared, first, second = (torch.rand(1, length, 32, generator=generator) for length in (5, 4, 6))
    parts = torch.tensor([[0] * 5 + [1] * 4 + [2] * 6])
    labels = torch.full((1, 15), IGNORED)
    labels[0, 7:9], labels[0, 12:15] = 5, 9
    losses, _ = MODEL.token_losses(torch.cat([shared, first, second], dim=1), labels, parts)
    alone = [
        MODEL.token_losses(
            torch.cat([shared, item], dim=1), torch.cat([labels[:, :5], labels[:, at : at + count]], dim=1)
        )[0]
        for item, at, count in ((first, 5, 4), (second, 9, 6))
    ]
    torch.testing.assert_close(losses, torch.cat(alone))
    other, _ = MODEL.token_losses(torch.cat([shared, 100 * first, second], dim=1), labels, parts)
    torch.testing.assert_close(other[2:], losses[2:])


def test_models_that_change_their_logits_are_known() -> None:
    from transformers import Gemma2Config, GraniteConfig, LlamaConfig

    assert scales_logits(Gemma2Config()) and scales_logits(GraniteConfig(logits_scaling=8.0))
    assert not scales_logits(LlamaConfig())
