"""The narrowed token table: the same vectors from fewer rows, and zeros for words that were in no caption."""

from __future__ import annotations

import torch

from perception_encoder.models.checkpoints.weights import create_model
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.towers import CaptionVocabulary

TEXTS = ["a photo of a cup.", "a rose", "the cup, a kind of vessel"]


@torch.no_grad()
def test_a_narrowed_text_tower_gives_the_same_vectors_and_is_widened_again() -> None:
    model, tokenize = create_model("builtin"), Tokenizer(32)
    whole = model.text.token_embedding.weight.clone()
    expected = model.encode_text(tokenize(TEXTS))
    vocabulary = CaptionVocabulary(tokenize, TEXTS)
    vocabulary.narrow(model)
    assert len(model.text.token_embedding.weight) == len(tokenize(TEXTS).unique()) < 20
    assert model.text.token_embedding.weight.requires_grad
    torch.testing.assert_close(model.encode_text(vocabulary(TEXTS)), expected)
    vocabulary.widen(model)
    torch.testing.assert_close(model.encode_text(tokenize(TEXTS)), expected)
    table = model.text.token_embedding.weight
    assert table.shape == whole.shape
    kept = table.abs().sum(1) > 0
    assert torch.equal(kept.nonzero()[:, 0], tokenize(TEXTS).unique())
    assert torch.equal(table[kept], whole[kept])
