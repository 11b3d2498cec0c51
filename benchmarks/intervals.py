"""How often a 95 % interval holds the true value, in simulation: `python -m benchmarks.intervals --trials 2000`.

Prints one row per metric and number of items (of videos for J&F, of media for recall): the share of intervals that hold
the true value, and of those that miss it, how many lie below it. With --differences, the same for the difference of
two models that are right or wrong, by n and by how often each alone is right.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from perception_encoder.evaluation.statistics.scores import ItemScores, estimate_difference, measure

SIZES = (10, 20, 25, 60, 200)
LARGE = 100_000
"""Items of the population that stands for the truth."""
PIXELS = 4096


Entries = dict[str, np.ndarray]
"""The values of n items' entries and, where there are any, their owners, groups and weights: see `ItemScores.of`."""


@dataclass(frozen=True)
class Setting:
    """A metric of items drawn from a population."""

    name: str
    entries: Callable[[int, np.random.Generator], Entries]
    unit: str = "%"

    def draw(self, n: int, rng: np.random.Generator) -> ItemScores:
        """Return the scores of n items."""
        return ItemScores.of(self.name, names=names_of(n), unit=self.unit, **self.entries(n, rng))

    @cached_property
    def truth(self) -> float:
        """Return the metric of a large sample: the mean over groups of the weighted mean of entries."""
        drawn = self.entries(LARGE, np.random.default_rng(99))
        values = drawn["values"]
        groups, weights = drawn.get("groups", np.zeros(len(values), int)), drawn.get("weights", np.ones(len(values)))
        return float((np.bincount(groups, weights * values) / np.bincount(groups, weights)).mean())

    def coverage(self, n: int, trials: int, seed: int = 1) -> tuple[float, int, int]:
        """Return the share of intervals of n items that hold the truth, and how many lie below and above it."""
        rng = np.random.default_rng(seed)
        ends = np.array([measure(self.draw(n, rng)).interval or (np.nan, np.nan) for _ in range(trials)])
        below, above = int((ends[:, 1] < self.truth).sum()), int((ends[:, 0] > self.truth).sum())
        return float(np.mean((ends[:, 0] <= self.truth) & (self.truth <= ends[:, 1]))), below, above


def names_of(n: int) -> list[str]:
    """Return names of n items."""
    return [str(number) for number in range(n)]


def segmentation(name: str, shown: np.ndarray, stray: float) -> Setting:
    """mIoU of classes that an image shows with these probabilities.

    `stray`: share of the wrong pixels that are predicted as any class, also one that the image does not show.
    """
    classes = len(shown)
    accuracy = np.random.default_rng(0).uniform(0.5, 0.9, classes)

    def draw(n: int, rng: np.random.Generator) -> Entries:
        present = rng.random((n, classes)) < shown
        present[~present.any(axis=1), 0] = True
        areas = present * rng.gamma(1.0, 1.0, (n, classes))
        areas /= areas.sum(axis=1, keepdims=True)
        true = np.round(areas * PIXELS)
        right = np.floor(true * rng.beta(4 * accuracy, 4 * (1 - accuracy), (n, classes)))
        wrong, predicted = (true - right).sum(axis=1, keepdims=True), right.copy()
        for share, weights in ((1 - stray, areas), (stray, np.broadcast_to(shown, areas.shape))):
            noisy = weights * rng.gamma(0.5, 1.0, areas.shape)
            predicted += np.floor(share * wrong * noisy / np.maximum(1e-12, noisy.sum(axis=1, keepdims=True)))
        union = true + predicted - right
        shares = np.divide(right, union, out=np.zeros_like(right), where=union > 0)
        owners, groups = np.repeat(np.arange(n), classes), np.tile(np.arange(classes), n)
        return {"values": shares.ravel(), "owners": owners, "groups": groups, "weights": union.ravel()}

    return Setting(f"mIoU, {name}", draw)


def recall(share: float) -> Setting:
    """Recall of media with 4 to 6 captions, some media easier than others."""

    def draw(n: int, rng: np.random.Generator) -> Entries:
        captions = rng.integers(4, 7, n)
        chances = np.repeat(rng.beta(3 * share, 3 * (1 - share), n), captions)
        owners = np.repeat(np.arange(n), captions)
        return {"values": rng.random(len(owners)) < chances, "owners": owners}

    return Setting(f"R@k, {share:.0%}", draw)


def tracking(n: int, rng: np.random.Generator) -> Entries:
    """Draw J&F of videos with one or more objects."""
    objects = 1 + rng.poisson(1.0, n)
    chances = np.repeat(rng.beta(3, 1.2, n), objects)
    owners = np.repeat(np.arange(n), objects)
    return {"values": rng.beta(6 * chances, 6 * (1 - chances)), "owners": owners}


def class_accuracy(n: int, rng: np.random.Generator) -> Entries:
    """Draw the mean accuracy of 20 classes, right on half of the items to all of them."""
    labels = rng.integers(0, 20, n)
    right = rng.random(n) < np.linspace(0.5, 1, 20)[labels]
    return {"values": right, "weights": 1 / np.bincount(labels)[labels]}


def depth(n: int, rng: np.random.Generator) -> Entries:
    """Draw errors with a log-normal distribution."""
    return {"values": np.exp(0.5 * rng.normal(size=n))}


def partial(n: int, rng: np.random.Generator) -> Entries:
    """Draw answers that are wrong, partly right or right."""
    return {"values": rng.choice([0, 0.3, 0.6, 0.9, 1], n, p=[0.25, 0.05, 0.05, 0.05, 0.6])}


MIOU = (
    segmentation("8 classes, each in 50 % of the images", np.full(8, 0.5), 0.1),
    segmentation("12 classes, each in 20 %", np.full(12, 0.2), 0.1),
    segmentation("10 classes, in 80 to 15 %", np.linspace(0.8, 0.15, 10), 0.1),
    segmentation("20 classes, Zipf, in 95 to 6 %", np.minimum(0.95, 1.2 / np.arange(1, 21)), 0.0),
    segmentation("the same, with stray predictions", np.minimum(0.95, 1.2 / np.arange(1, 21)), 0.3),
    segmentation("8 classes, in 90 to 5 %", np.array([0.9, 0.7, 0.5, 0.3, 0.2, 0.1, 0.08, 0.05]), 0.05),
)
OTHERS = (
    *(recall(share) for share in (0.5, 0.9, 0.97)),
    Setting("J&F", tracking),
    Setting("mean class accuracy, 20 classes", class_accuracy),
    Setting("VQA accuracy", partial),
    Setting("RMSE", depth, "m"),
)


def right_and_wrong(better: int, worse: int, n: int) -> tuple[ItemScores, ItemScores]:
    """Return the scores of two models of n items: each alone is right on some, and both on every other one."""
    ours = np.arange(n) % 2 == 0
    theirs = ours.copy()
    ours[: better + worse] = np.arange(better + worse) < better
    theirs[: better + worse] = ~ours[: better + worse]
    return ItemScores.of("top-1", ours, names_of(n)), ItemScores.of("top-1", theirs, names_of(n))


def difference_coverage(n: int, chance: float, gap: float, trials: int) -> float:
    """Return the share of intervals that hold `gap`; `chance`: how often the second model alone is right."""
    counts = np.random.default_rng(0).multinomial(n, (chance + gap, chance, 1 - gap - 2 * chance), trials)[:, :2]
    kinds, times = np.unique(counts, axis=0, return_counts=True)
    held = 0
    for (better, worse), number in zip(kinds.tolist(), times.tolist(), strict=True):
        low, high = estimate_difference(*right_and_wrong(better, worse, n)).interval() or (np.nan, np.nan)
        held += number * (low <= gap <= high)
    return held / trials


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--differences", action="store_true")
    arguments = parser.parse_args()
    if arguments.differences:
        for n in (25, 50, 200, 1000):
            for chance in (0.0, 0.002, 0.01, 0.05, 0.2):
                for gap in (0.0, 0.005, 0.03, 0.1, 0.3):
                    print(n, chance, gap, f"{difference_coverage(n, chance, gap, arguments.trials):.3f}", flush=True)
        return
    print("| metric |", " | ".join(map(str, arguments.sizes)), "|")
    for setting in (*MIOU, *OTHERS):
        rows = [setting.coverage(n, arguments.trials) for n in arguments.sizes]
        print(f"| {setting.name} |", " | ".join(f"{100 * held:.1f} ({b}/{a})" for held, b, a in rows), "|", flush=True)


if __name__ == "__main__":
    main()
