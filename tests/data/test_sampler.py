"""The sampler mixes sources in fixed shares, sees every sample once an epoch, and needs no state to resume."""

from __future__ import annotations

from collections import Counter

import pytest

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


def test_sources_are_mixed_within_the_batch() -> None:
    sources = [source for source, _ in WeightedSampler([100, 100], [1, 1], 64, seed=0).batch(0)]
    assert sources != sorted(sources)


@pytest.mark.parametrize(
    ("sizes", "weights", "batch_size", "match"),
    [
        ([5], [1, 1], 4, "1 sources and 2 weights"),
        ([], [], 4, "0 sources"),
        ([5, 5], [1, -1], 4, "negative"),
        ([5, 5], [0, 0], 4, "positive"),
        ([5, 0], [1, 1], 4, "no samples"),
        ([5, 5], [1, 1], 1, "batch_size 1"),
    ],
)
def test_impossible_mixes_are_config_errors(
    sizes: list[int], weights: list[float], batch_size: int, match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        WeightedSampler(sizes, weights, batch_size, seed=0)
