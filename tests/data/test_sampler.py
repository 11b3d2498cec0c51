"""The sampler mixes sources in fixed shares, sees every sample once an epoch, and needs no state to resume."""

from __future__ import annotations

from collections import Counter

import pytest

from perception_encoder.data import sampler as sampler_module
from perception_encoder.data.sampler import WeightedSampler
from perception_encoder.errors import ConfigError


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
