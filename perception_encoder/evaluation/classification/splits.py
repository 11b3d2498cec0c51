"""What probes learn from, what their settings are chosen on, and what they are measured on.

Settings are chosen on a split of their own, or on the tenth of the training items whose names have the smallest hash,
of which each class keeps at least one to be learned from; never on what is measured.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from perception_encoder.datasets.classified import ClassOptions, load_tasks
from perception_encoder.datasets.labelled import LabelledPictures
from perception_encoder.errors import DataError
from perception_encoder.evaluation.classification.zero_shot import check_classes

HELD_OUT = 10  # one in so many


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The three parts of a task."""

    train: LabelledPictures
    val: LabelledPictures
    """Empty where nothing is chosen."""
    test: LabelledPictures

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the training split, sorted."""
        return tuple(sorted(set(self.train.labels) | set(self.val.labels)))


def load_splits(
    place: Path,
    split: str,
    train: Path | None = None,
    options: ClassOptions | None = None,
    choosing: bool = True,
) -> dict[str, Splits]:
    """The tasks of a place by name (see `load_tasks`), measured on `split`.

    `train`: where the split `train` is, by default the same place. Settings are chosen on the split `val` beside it
    where there is one that is not measured; else some training items are held out, but not where `choosing` is false:
    `val` is empty then. Raises DataError for a task that train lacks, for one of a single class,
    for a class that train lacks, and for items that are in both.
    """
    tests, trains = load_tasks(place, split, options), load_tasks(train or place, "train", options)
    vals = {} if split == "val" else _optional_val(train or place, trains, options)
    found = {}
    for name, test in tests.items():
        learned = trains.get(name) or (next(iter(trains.values())) if len(trains) == len(tests) == 1 else None)
        if learned is not None:
            val = vals.get(learned.name, _some(learned, []))
            held = choosing and not val.keys
            found[name] = _checked(hold_out(learned, test) if held else Splits(train=learned, val=val, test=test))
    if not found:
        raise DataError(f"{train or place} has no task of {', '.join(tests)} to train on, but {', '.join(trains)}")
    return found


def hold_out(train: LabelledPictures, test: LabelledPictures) -> Splits:
    """Splits whose `val` is a tenth of `train`, always the same one; DataError where no item can be spared.

    The last item of a class is not held out.
    """
    order = sorted(range(len(train.keys)), key=lambda row: hashlib.sha256(train.keys[row].encode()).digest())
    tenth, left = len(order) // HELD_OUT, Counter(train.labels)
    held: set[int] = set()
    for place, row in enumerate(order):
        if tenth and left[train.labels[row]] > 1 and (place < tenth or not held):
            held.add(row)
            left[train.labels[row]] -= 1
    if not held:
        raise DataError(
            f"{train.name} has {len(order)} training items; at least {HELD_OUT} are needed, and two of a class, to "
            f"hold some out; or give a split val"
        )
    rows = range(len(order))
    kept, out = [row for row in rows if row not in held], [row for row in rows if row in held]
    return Splits(train=_some(train, kept), val=_some(train, out), test=test)


def _some(task: LabelledPictures, rows: list[int]) -> LabelledPictures:
    return replace(
        task,
        keys=tuple(task.keys[row] for row in rows),
        pictures=tuple(task.pictures[row] for row in rows),
        labels=tuple(task.labels[row] for row in rows),
    )


def _optional_val(
    place: Path, trains: dict[str, LabelledPictures], options: ClassOptions | None
) -> dict[str, LabelledPictures]:
    """The split `val`, if there is one that is not just the training items again (as in a table without splits)."""
    try:
        vals = load_tasks(place, "val", options)
    except DataError:
        return {}
    return {name: val for name, val in vals.items() if name in trains and not _shared(trains[name], val)}


def _shared(one: LabelledPictures, other: LabelledPictures) -> set[str]:
    """Names of the items that are in both: the same files, or the same content under the same name."""

    def identities(task: LabelledPictures) -> dict[object, str]:
        pairs = zip(task.keys, task.pictures, strict=True)
        return {(key, source) if isinstance(source, bytes) else source: key for key, source in pairs}

    ours, theirs = identities(one), identities(other)
    return {ours[each] for each in ours.keys() & theirs.keys()}


def _checked(splits: Splits) -> Splits:
    test, classes = splits.test, splits.classes
    check_classes(test.name, classes)
    if shared := _shared(splits.train, test) | _shared(splits.val, test):
        raise DataError(
            f"{test.name}: {len(shared)} items are trained on and measured, {min(shared)} first; give --train"
        )
    lacking = set(test.labels) - set(splits.train.labels)
    if lacking:
        raise DataError(f"{test.name}: nothing to learn the class {min(lacking)!r} from; it is not in the split train")
    return splits
