"""A locked text tower encodes each caption once; its embeddings are looked up."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from perception_encoder.data.batch import ImageTextBatch
from perception_encoder.models.clip import TextTransformer
from perception_encoder.preprocess.tokenizer import Tokenizer, trim
from perception_encoder.pretraining import run, towers
from perception_encoder.pretraining.run import build_model, pretrain
from perception_encoder.pretraining.task import ContrastiveTask
from perception_encoder.pretraining.towers import CachedTexts, CaptionVocabulary, Towers
from synthetic.builtin.rules import RULES
from tests.pretraining.toys import debug, gradients, small_batch


def test_a_locked_text_tower_encodes_each_caption_once(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data have 111 captions: features are kept where so many fit, and the run draws more pairs."""
    monkeypatch.setenv("PE_DTYPE", "float32")
    encode, encoded = TextTransformer.forward, list[int]()
    monkeypatch.setattr(TextTransformer, "forward", lambda self, ids: encoded.append(len(ids)) or encode(self, ids))

    def losses(most: int, batch_size: int) -> list[float]:
        encoded.clear()
        monkeypatch.setattr(run, "MAX_CACHED", most)
        rows: list[dict[str, float]] = []
        config = dataclasses.replace(debug(), locked="text", batch_size=batch_size, masking=None)
        pretrain(config, [photos], tmp_path / f"{most}-{batch_size}", listener=rows.append, rules=RULES)
        return [row["contrastive"] for row in rows]

    kept = losses(111, 32)
    assert encoded == [111] and len(kept) == 4
    assert losses(110, 32) == pytest.approx(kept, rel=1e-5) and len(encoded) == 16  # four groups a step
    losses(111, 16)
    assert len(encoded) == 16


TEXTS = ("a cup", "the rose, and a long caption about it", "an ant", "A  cup")


def cached_and_not(chunk: int | None = None) -> tuple[Towers, Towers, CaptionVocabulary]:
    """Towers with a locked text tower, with its embeddings cached and without, and the vocabulary."""
    clip = build_model(debug())
    vocabulary = CaptionVocabulary(Tokenizer(32), TEXTS)
    vocabulary.narrow(clip)
    clip.text.requires_grad_(False)
    cached = CachedTexts(clip.text, vocabulary.captions)
    return Towers(clip, chunk=chunk, cached=cached), Towers(clip, chunk=chunk), vocabulary


@pytest.mark.parametrize("chunk", [None, 2])
def test_cached_texts_change_neither_losses_nor_gradients(chunk: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(towers, "AT_ONCE", 2)
    monkeypatch.setenv("PE_DTYPE", "float32")
    cached, plain, vocabulary = cached_and_not(chunk)
    assert len(vocabulary.captions) == 3  # two captions are one row of tokens
    tokens = trim(vocabulary(["an ant", "a cup"]))
    assert tokens.shape[1] < 6
    positives = torch.eye(2).bool().repeat(4, 1)
    batch = ImageTextBatch(small_batch().images, tokens, positives, positives.T)
    ours, theirs = (ContrastiveTask(towers).losses(batch)["contrastive"] for towers in (cached, plain))
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    actual, expected = gradients(cached, ours), gradients(plain, theirs)
    assert actual.keys() == expected.keys() and not [name for name in actual if ".text." in name]
    for name in expected:
        torch.testing.assert_close(actual[name], expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_cached_texts_are_not_encoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cached, plain, vocabulary = cached_and_not()
    encoded: list[int] = []
    cached.clip.text.register_forward_hook(lambda module, given, result: encoded.append(len(result)))
    cached(small_batch().images, vocabulary(["a cup"]))
    assert encoded == []
    plain(small_batch().images, vocabulary(["a cup"]))
    assert encoded == [1]
    with pytest.raises(KeyError):
        cached.cached(vocabulary(["a cup"]) + 1)
