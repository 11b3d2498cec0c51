"""Batches of pairs: a pure function of the step, with every true pair."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from perception_encoder.data.pairs import PairBatches, SourcePart, Stage, true_pairs
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.sources import ImageTextSet, read_pairs


def test_a_batch_is_a_pure_function_of_its_step(photos: Path) -> None:
    samples = read_pairs([photos])

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
    samples = ImageTextSet(read_pairs([photos])[:8])
    texts = ["a photo of a cup.", "a photo of the cup.", "a photo of a rose.", "a photo of a ant."]
    positives = true_pairs([sample.pair.captions for sample in samples], texts)
    for sample, row in zip(samples, positives.tolist(), strict=True):
        expected = {"cup": [True, True, False, False], "rose": [False, False, True, False]}
        expected |= {"ant": [False, False, False, True], "daisy": [False] * 4}
        assert row == expected[sample.label]
    batch = PairBatches([samples], [1.0], 8, (Stage(image_size=32, steps=1),), Augmentation(), Tokenizer(32), 0)(0)
    assert batch.image_positives.any(1).all() and batch.text_positives.any(1).all()
    assert torch.equal(batch.text_positives, batch.image_positives.T)


@dataclass
class Numbers:
    """A source whose samples are their own indices."""

    sizes: list[int]

    def load(self, index: int, needed: object) -> int:
        assert 0 <= index < sum(self.sizes)
        return index


@pytest.mark.parametrize("sizes", [[12], [1, 7, 2, 3], [6, 6]])
@pytest.mark.parametrize("every", [2, 3, 20])
def test_every_nth_sample_of_each_shard_and_all_others(sizes: list[int], every: int) -> None:
    chosen, others = (SourcePart(Numbers(sizes), every, chosen=chosen) for chosen in (True, False))
    first, second = ([part.load(index, min) for index in range(sum(part.sizes))] for part in (chosen, others))
    assert sorted([*first, *second]) == list(range(sum(sizes))) and second == sorted(second)
    starts = [sum(sizes[:shard]) for shard in range(len(sizes))]
    expected = [start + row for start, size in zip(starts, sizes, strict=True) for row in range(every - 1, size, every)]
    assert first == expected and chosen.sizes == [size // every for size in sizes]
