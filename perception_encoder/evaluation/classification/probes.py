"""Classify frozen features without training the encoder: a linear probe and k-NN (section 2.5), and splits for probes.

Every class has the same total weight in the probe. The vote of k-NN is DINO's: the k most similar training items, each
with the weight exp(similarity / 0.07). A split has items to fit on, to choose settings on (never the test items), and
to test on.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.labelled import LabelledImages, hashed_rows, held_out_rows
from perception_encoder.errors import ConfigError, DataError, needs_extra
from perception_encoder.evaluation.classification.zero_shot import accuracies, check_classes, highest, ranked_classes
from perception_encoder.evaluation.embeddings import Embeddings, Features
from perception_encoder.evaluation.statistics.scores import Label, Score, measure_all
from perception_encoder.progress import Track, untracked

logger = logging.getLogger(__name__)

HELD_OUT = 10  # one item in this many


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three parts of a task."""

    train: LabelledImages
    val: LabelledImages
    """Empty if nothing is chosen."""
    test: LabelledImages

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(sorted({*self.train.labels, *self.val.labels, *self.test.labels}))


def load_splits(
    path: Path, split: str, train: Path | None = None, options: ClassOptions | None = None, choosing: bool = True
) -> dict[str, Splits]:
    """Read the tasks at a path by name (see `load_tasks`), with `split` as the test split.

    `train`: the path of the split `train`, by default the same. If the path has no splits, a fifth of each class is
    held out to be tested on (`held_out_rows`), and the task's name says so. Settings are chosen on the split `val`
    beside it, if it exists and is not the tested one; else some training items are held out, or none if `choosing` is
    false: `val` is empty then. Raises DataError for a task that train lacks, for one of a single class, for a class
    that train lacks, and for items that are in both.
    """
    tests, trains = load_tasks(path, split, options), load_tasks(train or path, "train", options)
    vals = {} if split == "val" else _optional_val(train or path, trains, options)
    tasks = {}
    for name, test in tests.items():
        training = trains.get(name) or (next(iter(trains.values())) if len(trains) == len(tests) == 1 else None)
        if training is not None and train is None and len(_shared(training, test)) == len(test.keys):
            training, test = cut(training)
        if training is not None:
            val = vals.get(training.name, training.select([]))
            whole = Splits(train=training, val=val, test=test)
            tasks[name] = _checked(hold_out(training, test) if choosing and not val.keys else whole)
    if not tasks:
        raise DataError(f"{train or path} has no training data for {', '.join(tests)}; it has {', '.join(trains)}")
    return tasks


def cut(whole: LabelledImages) -> tuple[LabelledImages, LabelledImages]:
    """Split a task without splits into a training and a test part, and log their sizes."""
    held_out = held_out_rows(whole.keys, whole.labels)
    rest = sorted({*range(len(whole.keys))} - {*held_out})
    logger.warning(
        "%s has no splits: %d of its %d items, a fifth of each class, are held out for evaluation",
        whole.name,
        len(held_out),
        len(whole.keys),
    )
    return whole.select(rest), replace(whole.select(held_out), name=f"{whole.name}, held-out fifth")


def hold_out(train: LabelledImages, test: LabelledImages) -> Splits:
    """Return splits whose `val` is a fixed tenth of `train`; DataError if `train` is too small.

    The last item of a class is not held out.
    """
    order = hashed_rows(train.keys)
    tenth, left = len(order) // HELD_OUT, Counter(train.labels)
    val_rows: set[int] = set()
    for rank, row in enumerate(order):
        if tenth and left[train.labels[row]] > 1 and (rank < tenth or not val_rows):
            val_rows.add(row)
            left[train.labels[row]] -= 1
    if not val_rows:
        raise DataError(
            f"{train.name} has {len(order)} training items; at least {HELD_OUT} are needed, and two of a class, to "
            f"hold some out; or give a split val"
        )
    rows = range(len(order))
    rest = [row for row in rows if row not in val_rows]
    return Splits(train=train.select(rest), val=train.select(sorted(val_rows)), test=test)


def _optional_val(
    path: Path, trains: dict[str, LabelledImages], options: ClassOptions | None
) -> dict[str, LabelledImages]:
    """Return the split `val`, unless it repeats the training items (as in a table without splits)."""
    try:
        vals = load_tasks(path, "val", options)
    except DataError:
        return {}
    return {name: val for name, val in vals.items() if name in trains and not _shared(trains[name], val)}


def _shared(one: LabelledImages, other: LabelledImages) -> set[str]:
    """Return the names of items in both sets: the same files, or the same content under the same name."""

    def identities(task: LabelledImages) -> dict[object, str]:
        pairs = zip(task.keys, task.images, strict=True)
        return {(key, source) if isinstance(source, bytes) else source: key for key, source in pairs}

    ours, theirs = identities(one), identities(other)
    return {ours[digest] for digest in ours.keys() & theirs.keys()}


def _checked(splits: Splits) -> Splits:
    test, classes = splits.test, splits.classes
    check_classes(test.name, classes)
    if shared := _shared(splits.train, test) | _shared(splits.val, test):
        raise DataError(
            f"{test.name}: {len(shared)} items are in both the training and the test split, {min(shared)} first; "
            "give --train"
        )
    lacking = set(test.labels) - set(splits.train.labels)
    if lacking:
        raise DataError(f"{test.name}: the class {min(lacking)!r} is not in the split train")
    return splits


STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Inverse regularisation C to try, on standardised features."""
ITERATIONS = 300


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe."""

    weight: np.ndarray  # (K, D)
    bias: np.ndarray  # (K,)
    strength: float  # the chosen C

    def classify(self, vectors: np.ndarray) -> np.ndarray:
        """Return the index of the most probable class for each vector: (n, D) to (n,)."""
        return self.scores(vectors).argmax(axis=1)

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the logarithm of each class's probability, up to a constant: (n, D) to (n, K)."""
        return vectors @ self.weight.T + self.bias


def fit_probe(
    train: Features, val: Features, classes: Sequence[str], strengths: Sequence[float] = STRENGTHS
) -> LinearProbe:
    """Fit on `train` with each of `strengths` and return the probe that is best on `val`; ties go to the smallest.

    `MissingExtraError` without scikit-learn.
    """
    targets, val_targets = train.targets(classes), val.targets(classes)
    probes = [_fit(train.vectors, targets, len(classes), strength) for strength in strengths]
    scores = [mean_class_accuracy(probe.classify(val.vectors), val_targets) for probe in probes]
    return probes[int(np.argmax(scores))]


@dataclass(frozen=True)
class LinearEvaluator:
    """Classification by a linear probe, fitted on `train` with the strength that is best on `val`."""

    splits: Splits

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield mean class accuracy, top-1 and perhaps top-5; errors as those of `fit_probe`, and see `Evaluator`."""
        splits, classes = self.splits, self.splits.classes
        train, val, test = (source.images(part, track) for part in (splits.train, splits.val, splits.test))
        probe = fit_probe(train, val, classes)
        label = Label(
            task=splits.test.name,
            method="linear probe",
            classes=len(classes),
            settings={"C": f"{probe.strength:g}", "train": f"{len(train.keys):,}"},
            failures=train.failures + val.failures + test.failures,
        )
        ranked = highest(probe.scores(test.vectors), ranked_classes(classes))
        yield from measure_all(accuracies(ranked, test.keys, test.labels, classes), label)


def _fit(vectors: np.ndarray, targets: np.ndarray, classes: int, strength: float) -> LinearProbe:
    """Fit logistic regression on standardised vectors and return it in terms of the original vectors."""
    with needs_extra("eval", "scikit-learn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    mean, deviation = vectors.mean(axis=0), vectors.std(axis=0) + 1e-6
    regression = LogisticRegression(C=strength, max_iter=ITERATIONS, tol=1e-3, class_weight="balanced")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the weakest need not converge to be compared
        regression.fit((vectors - mean) / deviation, targets)
    weight, bias = np.zeros((classes, vectors.shape[1])), np.full(classes, -np.inf)
    rows, coefficients, offset = regression.classes_, regression.coef_, regression.intercept_
    if len(rows) == 2:  # scikit-learn keeps one row for two classes: the log-odds, half of which are for each
        coefficients, offset = (np.concatenate([-odds, odds]) / 2 for odds in (coefficients, offset))
    weight[rows] = coefficients / deviation
    bias[rows] = offset - weight[rows] @ mean
    return LinearProbe(weight, bias, strength)


def mean_class_accuracy(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Return the accuracy averaged over the classes that occur; both arguments are class indices, (n,)."""
    return float(np.mean([(predicted[targets == index] == index).mean() for index in np.unique(targets)]))


TEMPERATURE = 0.07
K = 20
CHUNK = 1024  # items that are looked up at a time


def vote(train: np.ndarray, targets: np.ndarray, vectors: np.ndarray, k: int = K) -> np.ndarray:
    """Return the index of the class with the most votes for each vector, (n,); ties go to the first class.

    `train`: unit (m, D), of the classes `targets` (m,); `vectors`: unit (n, D). Raises ConfigError for a `k` out of
    1 to m.
    """
    if not 1 <= k <= len(train):
        raise ConfigError(f"k is {k}; it must be at least 1 and at most {len(train)}, the number of training items")
    known, labels = torch.from_numpy(train).T.contiguous(), torch.from_numpy(targets)
    classes = int(targets.max()) + 1
    winners = []
    for chunk in torch.from_numpy(vectors).split(CHUNK):
        similarity, nearest = (chunk @ known).topk(k, dim=1)  # (n, k)
        weights = ((similarity.double() - similarity[:, :1]) / TEMPERATURE).exp()  # the best one's weight is 1
        votes = torch.zeros(len(chunk), classes, dtype=torch.float64).scatter_add_(1, labels[nearest], weights)
        winners.append(votes.argmax(dim=1))
    return torch.cat(winners).numpy()


@dataclass(frozen=True)
class NeighboursEvaluator:
    """Classification by the votes of the most similar training items."""

    splits: Splits
    """The neighbours come from `train` and `val` together; `val` may be empty."""
    ks: Sequence[int] = (K,)

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield mean class accuracy, top-1 for each k; raises the errors of `vote`, and see `Evaluator`."""
        splits, classes = self.splits, self.splits.classes
        known = [source.images(part, track) for part in (splits.train, splits.val) if part.keys]
        test = source.images(splits.test, track)
        train = np.concatenate([part.vectors for part in known])
        targets = np.concatenate([part.targets(classes) for part in known])
        for k in self.ks:
            label = Label(
                task=splits.test.name,
                method=f"{k}-NN",
                classes=len(classes),
                settings={"temperature": f"{TEMPERATURE:g}", "train": f"{len(train):,}"},
                failures=tuple(failure for part in (*known, test) for failure in part.failures),
            )
            predicted = vote(train, targets, test.vectors, k)
            yield from measure_all(accuracies(predicted, test.keys, test.labels, classes), label)
