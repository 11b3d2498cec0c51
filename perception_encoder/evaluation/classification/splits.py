"""Split a labelled dataset for probes: items to fit on, to choose settings on (never the test items), to test on."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.labelled import LabelledImages, hashed_rows, held_out_rows
from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification.zero_shot import check_classes

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

    If the path has no splits, a fifth of each class is held out to be tested on (`held_out_rows`), and the task's name
    says so. Raises DataError for a task that train lacks, for one of a single class, for a class that train lacks, and
    for items that are in both.

    Args:
        train: The path of the split `train`; by default the same. Settings are chosen on the split `val` beside it, if
            it exists and is not the tested one.
        choosing: Without such a `val`, hold out some training items for it; if false, it is empty then.
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
