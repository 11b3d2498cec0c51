"""Batches of pairs: a pure function of the step, with every true pair."""

from __future__ import annotations

from pathlib import Path

import torch

from perception_encoder.data.image_text import ImageTextSet
from perception_encoder.data.pairs import PairBatches, Stage, true_pairs
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.tokenizer import Tokenizer


def test_a_batch_is_a_pure_function_of_its_step(photos: Path) -> None:
    samples = ImageTextSet.from_directory([photos], "train")

    def make() -> PairBatches:
        stages = (Stage(image_size=32, steps=2), Stage(image_size=48, steps=2))
        return PairBatches([samples], [1.0], 12, stages, Augmentation(), Tokenizer(32), 5)

    forwards, backwards = make(), make()
    seen = {step: forwards(step) for step in range(4)}
    for step in reversed(range(4)):
        again = backwards(step)
        for name in ("images", "tokens", "image_positives", "text_positives"):
            assert torch.equal(getattr(seen[step], name), getattr(again, name))
    assert [seen[step].images.shape[-1] for step in range(4)] == [32, 32, 48, 48]
    assert not torch.equal(seen[0].images, seen[1].images)


def test_every_caption_and_picture_has_a_positive_and_true_pairs_are_found(photos: Path) -> None:
    samples = ImageTextSet(ImageTextSet.from_directory([photos], "train")[:8])
    texts = ["a photo of a cup.", "a photo of the cup.", "a photo of a rose.", "an ant"]
    positives = true_pairs([sample.captions for sample in samples], texts)
    for sample, row in zip(samples, positives.tolist(), strict=True):
        expected = {"cup": [True, True, False, False], "rose": [False, False, True, False]}
        expected |= {"ant": [False, False, False, True], "daisy": [False] * 4}
        assert row == expected[sample.label]
    batch = PairBatches([samples], [1.0], 8, (Stage(image_size=32, steps=1),), Augmentation(), Tokenizer(32), 0)(0)
    assert batch.image_positives.any(1).all() and batch.text_positives.any(1).all()
    assert torch.equal(batch.text_positives, batch.image_positives.T)
