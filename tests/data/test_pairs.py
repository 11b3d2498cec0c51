"""Batches of pairs are a pure function of the step; the sampler mixes sources and needs no state to resume."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from perception_encoder.data import sampler as sampler_module
from perception_encoder.data.pairs import PairBatches, ResolutionStage, SourcePart, true_pairs
from perception_encoder.data.sampler import WeightedSampler
from perception_encoder.errors import ConfigError
from perception_encoder.preprocess.augmentation import Augmentation
from perception_encoder.preprocess.tokenizer import Tokenizer
from perception_encoder.pretraining.sources import ImageTextSet, read_pairs


def test_a_batch_is_a_pure_function_of_its_step(photos: Path) -> None:
    samples = read_pairs([photos])

    def make() -> PairBatches:
        stages = (ResolutionStage(image_size=32, steps=2), ResolutionStage(image_size=48, steps=2))
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
    batch = PairBatches(
        [samples], [1.0], 8, (ResolutionStage(image_size=32, steps=1),), Augmentation(), Tokenizer(32), 0
    )(0)
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


@pytest.mark.parametrize(
    ("weights", "batch_size", "counts"),
    [
        ((0.7, 0.3), 10, (7, 3)),
        ((7, 3), 256, (179, 77)),
        ((1, 1, 1), 8, (3, 3, 2)),
        ((1, 0), 4, (4, 0)),
        ((1000, 1), 8, (7, 1)),
        ((1, 1), 2, (1, 1)),
    ],
)
def test_batches_hold_each_source_by_its_weight(
    weights: tuple[float, ...], batch_size: int, counts: tuple[int, ...]
) -> None:
    sampler = WeightedSampler([50] * len(weights), weights, batch_size, seed=0)
    assert sampler.counts == counts
    seen = Counter(source for source, _ in sampler.batch(3))
    assert tuple(seen[source] for source in range(len(weights))) == counts


def test_every_sample_comes_once_an_epoch_in_a_new_order() -> None:
    sampler = WeightedSampler([12, 30], [1, 1], 8, seed=3)  # 4 of each: an epoch of the first is 3 steps
    epochs = [[i for step in range(3 * e, 3 * e + 3) for s, i in sampler.batch(step) if s == 0] for e in range(3)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_a_source_smaller_than_its_share_repeats_within_the_batch() -> None:
    batch = WeightedSampler([3], [1], 7, seed=0).batch(0)
    assert sorted(Counter(index for _, index in batch).values()) == [2, 2, 3]


def test_a_step_depends_only_on_seed_and_step() -> None:
    def sampler(seed: int = 5) -> WeightedSampler:
        return WeightedSampler([17, 40], [1, 2], 9, seed)

    run = sampler()
    unbroken = [run.batch(step) for step in range(40)]
    assert [sampler().batch(step) for step in (39, 7, 20)] == [unbroken[step] for step in (39, 7, 20)]
    assert run.batch(0) == unbroken[0]
    assert sampler(6).batch(0) != unbroken[0]


@pytest.mark.parametrize(
    ("sizes", "weights", "batch_size", "match"),
    [
        ([5, 0], [1, 1], 4, "no samples"),
        ([5, 5], [1, 1], 1, "batch_size 1"),
    ],
)
def test_impossible_mixes_are_config_errors(
    sizes: list[int], weights: list[float], batch_size: int, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        WeightedSampler(sizes, weights, batch_size, seed=0)


def test_shards_come_in_windows_and_every_sample_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler_module, "WINDOW", 2)
    sizes = [3, 5, 2, 4, 6]  # shards begin at 0, 3, 8, 10, 14
    shard_of = [shard for shard, size in enumerate(sizes) for _ in range(size)]
    sampler = WeightedSampler([sizes], [1], 1, seed=1)
    epochs = [[sampler.batch(step)[0][1] for step in range(20 * e, 20 * e + 20)] for e in range(3)]
    assert all(sorted(epoch) == list(range(20)) for epoch in epochs)
    for epoch in epochs:
        shards = list(dict.fromkeys(shard_of[i] for i in epoch))
        firsts = sizes[shards[0]] + sizes[shards[1]]
        assert {shard_of[i] for i in epoch[:firsts]} == set(shards[:2])
        assert epoch[:firsts] != sorted(epoch[:firsts])
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert WeightedSampler([sizes], [1], 1, seed=1).batch(37) == sampler.batch(37)


def test_a_place_s_next_sample_is_that_of_the_next_step() -> None:
    sampler = WeightedSampler([24, 7], [2, 1], 6, seed=4)
    following = Counter((place[0], sampler.index(place, later=1)) for place in sampler.positions(2))
    assert following == Counter(sampler.batch(3))
