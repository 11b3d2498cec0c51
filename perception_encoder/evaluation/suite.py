"""The evaluation suite: labelled images, zero-shot and by a linear probe, and drawings by their names.

Every metric is labelled with its transform and prompts. The classes of a task are those of its train and evaluated
splits together. The probe picks its strength on the val split, so it is evaluated on `test` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from perception_encoder.datasets.labelled import FindHeldOut, LabelledImages, load_labelled
from perception_encoder.errors import ConfigError
from perception_encoder.evaluation.classification.linear_probe import LinearEvaluator
from perception_encoder.evaluation.classification.prompts import find_templates
from perception_encoder.evaluation.classification.splits import Splits, load_splits
from perception_encoder.evaluation.classification.zero_shot import ZeroShotEvaluator
from perception_encoder.evaluation.features import CachingEncoder, cache_features
from perception_encoder.evaluation.results import Measurement, Result, evaluate
from perception_encoder.evaluation.retrieval import NamedRetrievalEvaluator
from perception_encoder.formats.shards import shards_below
from perception_encoder.models.protocols import ImageTextEncoder
from perception_encoder.progress import Track, untracked

SPLITS = ("test", "val")
DEFAULT_PROMPTS = ("photo", "imagenet")


class Suite:
    """The measurements of one model, taken one dataset after the other.

    `encoders`: the model under each transform, by the transform's name; the probe and retrieval use the first.
    `prompts`: names of templates (see `PROMPTS`); photographs are classified with each, and the first leads.
    """

    def __init__(
        self,
        encoders: Mapping[str, ImageTextEncoder],
        prompts: Sequence[str] = DEFAULT_PROMPTS,
        track: Track = untracked,
    ) -> None:
        for name in prompts:
            find_templates(name)
        self.encoders, self.prompts, self.track = cache_features(encoders), tuple(prompts), track
        self.measurements: list[Measurement] = []

    @property
    def first(self) -> dict[str, CachingEncoder]:
        """The model under its first transform."""
        return dict([next(iter(self.encoders.items()))])

    def classify(self, path: Path, split: str = "test", held_out: FindHeldOut | None = None) -> None:
        """Evaluate every classification task of a dataset: shards (see `load_labelled`), class directories or a table.

        A dataset without splits is cut as by `load_splits`.
        """
        if split not in SPLITS:
            raise ConfigError(f"the suite evaluates the split {' or '.join(SPLITS)}, not {split!r}")
        tasks, train, val = self._read(path, split, held_out)
        for name, task in tasks.items():
            classes = {*task.labels, *(train[name].labels if name in train else ())}
            whole = replace(task, choices=tuple(sorted(classes)))
            zero_shot = [ZeroShotEvaluator(whole, [prompts]) for prompts in self.prompts]
            self.measurements += evaluate(zero_shot, self.encoders, self.track)
            if name in train and name in val:
                probe = LinearEvaluator(Splits(train=train[name], val=val[name], test=task))
                self.measurements += evaluate([probe], self.first, self.track)

    @staticmethod
    def _read(path: Path, split: str, held_out: FindHeldOut | None) -> tuple[dict[str, LabelledImages], ...]:
        """Return the tasks to test on, to train on, and to choose the probe's strength on; the last for `test` only."""
        if path.suffix == ".tar" or shards_below(path, split):
            val = load_labelled(path, "val", held_out) if split == "test" else {}
            return load_labelled(path, split, held_out), load_labelled(path, "train", held_out), val
        parts = load_splits(path, split)
        val = {name: each.val for name, each in parts.items()} if split == "test" else {}
        tests, trains = ({name: getattr(each, part) for name, each in parts.items()} for part in ("test", "train"))
        return tests, trains, val

    def retrieve_drawings(self, path: Path) -> None:
        """Evaluate the never-trained drawings of a directory that `pe data prepare` made: each by its name."""
        tasks: list[LabelledImages] = list(load_labelled(path, "unseen").values())
        self.measurements += evaluate(map(NamedRetrievalEvaluator, tasks), self.first, self.track)

    def result(self, split: str, about: Mapping[str, str]) -> Result:
        """Return all measurements."""
        (encoder,) = self.first.values()
        return Result(
            model=encoder.name,
            split=split,
            measurements=tuple(self.measurements),
            failures=tuple(map(str, encoder.failures)),
            about=dict(about),
        )
