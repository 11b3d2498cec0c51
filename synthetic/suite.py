"""`python -m synthetic.suite`: evaluate labelled images, zero-shot and by a linear probe, and drawings by their names.

Every metric is labelled with its transform and prompts. The classes of a task are those of its train and evaluated
splits together. The probe picks its strength on the val split, so it is evaluated on `test` only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from perception_encoder.cli import evaluate as options
from perception_encoder.cli import options as shared
from perception_encoder.cli import output
from perception_encoder.cli.output import track
from perception_encoder.datasets.labelled import LabelledImages, load_labelled
from perception_encoder.errors import ConfigError, DataError
from perception_encoder.evaluation import embeddings
from perception_encoder.evaluation.classification.probes import LinearEvaluator
from perception_encoder.evaluation.classification.splits import Splits, load_splits
from perception_encoder.evaluation.classification.zero_shot import ZeroShotClassifier, ZeroShotEvaluator, find_templates
from perception_encoder.evaluation.embeddings import Embeddings, embeddings_of
from perception_encoder.evaluation.results import Result, evaluate_transforms, write_result
from perception_encoder.evaluation.retrieval import recalls
from perception_encoder.evaluation.statistics.scores import Label, Score, measure_all
from perception_encoder.formats.shards import shards_below
from perception_encoder.inference.encoder import Encoder
from perception_encoder.progress import Track, untracked
from synthetic.builtin.held_out import load_suite
from synthetic.command_line import run_command
from synthetic.report import classification_table, retrieval_table

SPLITS = ("test", "val")
DEFAULT_PROMPTS = ("photo", "imagenet")


class Suite:
    """The scores of one model, taken one dataset after the other.

    `encoders`: the model under each transform, by the transform's name; the probe and retrieval use the first.
    `prompts`: names of templates (see `PROMPTS`); photographs are classified with each, and the first leads.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        prompts: Sequence[str] = DEFAULT_PROMPTS,
        track: Track = untracked,
    ) -> None:
        for name in prompts:
            find_templates(name)
        self.encoders, self.prompts, self.track = embeddings_of(encoders), tuple(prompts), track
        self.scores: list[Score] = []

    @property
    def first(self) -> dict[str, Embeddings]:
        """The model under its first transform."""
        return dict([next(iter(self.encoders.items()))])

    def classify(self, path: Path, split: str = "test") -> None:
        """Evaluate every classification task of a dataset: shards (see `load_suite`), class directories or a table.

        A dataset without splits is cut as by `load_splits`.
        """
        if split not in SPLITS:
            raise ConfigError(f"the suite evaluates the split {' or '.join(SPLITS)}, not {split!r}")
        tasks, train, val = self._read(path, split)
        for name, task in tasks.items():
            classes = {*task.labels, *(train[name].labels if name in train else ())}
            whole = replace(task, choices=tuple(sorted(classes)))
            zero_shot = [ZeroShotEvaluator(whole, [prompts]) for prompts in self.prompts]
            self.scores += evaluate_transforms(zero_shot, self.encoders, self.track)
            if name in train and name in val:
                probe = LinearEvaluator(Splits(train=train[name], val=val[name], test=task))
                self.scores += evaluate_transforms([probe], self.first, self.track)

    @staticmethod
    def _read(path: Path, split: str) -> tuple[dict[str, LabelledImages], ...]:
        """Return the tasks to test on, to train on, and to choose the probe's strength on; the last for `test` only."""
        if path.suffix == ".tar" or shards_below(path, split):
            val = load_suite(path, "val") if split == "test" else {}
            return load_suite(path, split), load_suite(path, "train"), val
        parts = load_splits(path, split)
        val = {name: item.val for name, item in parts.items()} if split == "test" else {}
        tests, trains = ({name: getattr(value, part) for name, value in parts.items()} for part in ("test", "train"))
        return tests, trains, val

    def retrieve_drawings(self, path: Path) -> None:
        """Evaluate the never-trained drawings of a directory that `synthetic.drawings` made: each by its name."""
        tasks: list[LabelledImages] = list(load_labelled(path, "unseen").values())
        self.scores += evaluate_transforms(map(NamedRetrievalEvaluator, tasks), self.first, self.track)

    def result(self, split: str, about: Mapping[str, str]) -> Result:
        """Return all scores."""
        (encoder,) = self.first.values()
        return Result(
            model=encoder.name,
            split=split,
            scores=tuple(self.scores),
            failures=tuple(map(str, encoder.failures)),
            about=dict(about),
        )


class NamedRetrievalEvaluator:
    """Retrieval of images by label, where each label is the name of one image."""

    def __init__(self, task: LabelledImages) -> None:
        """Raises DataError if two images have the same name."""
        if len(set(task.labels)) < len(task.labels):
            raise DataError(f"{task.name}: two images have the same name; retrieval by name needs unique names")
        self.task = task

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield R@1 in both directions: see `Evaluator`."""
        features = source.images(self.task, track)
        names = ZeroShotClassifier.of(source, features.labels, "name", track=track)
        label = Label(
            task=self.task.name,
            method="retrieval",
            prompts="name",
            classes=len(features.keys),
            failures=features.failures,
        )
        ways = "image by name", "name of image"
        found = recalls(names.scores(features.vectors).T, None, ways, features.keys, tops=(1,))
        yield from measure_all(found, label)


def suite(
    model: shared.OwnModel,
    photos: Annotated[Path, options.data_option("Labelled photographs: shards, class directories, or a table.")],
    drawings: Annotated[Path | None, options.data_option("Directory that `synthetic.drawings` made.", "DIR")] = None,
    split: Annotated[str, options.data_option("test, or val (zero-shot only).", "NAME")] = "test",
    prompts: Annotated[str, shared.option(options.PROMPTS, "NAMES")] = "photo,imagenet",
    out: options.Out = None,
) -> None:
    """Evaluate zero-shot and by a probe.

    The evaluation of the built-in model. Zero-shot and by a linear probe: mean class accuracy in percent, with half the
    width of its 95 % interval, for both transforms (squash and centre crop) and the first of the prompts, next to
    chance; the JSON has all results. With drawings, also retrieval by name in the style that was never trained on.
    Shards hold KEY.jpg with KEY.json (`source`, `label`, optionally `coarse`). Of class directories or a table without
    splits, a fifth of each class is held out and evaluated; `pe train --set validation.share=0.2` does not train on it.
    Status 1: some images could not be decoded; they are listed and left out of every result.

    Examples:

        python -m synthetic.suite builtin --photos photos -o builtin.json
        python -m synthetic.suite PE-Core-B16-224 --photos photos --drawings datasets
        python -m synthetic.suite runs/builtin/model.safetensors --photos photos --split val
    """
    encoders, about = embeddings.load_variants(model, texts=True)
    evaluation = Suite(encoders, shared.items_of(prompts), track)
    evaluation.classify(photos, split)
    if drawings is not None:
        evaluation.retrieve_drawings(drawings)
    result = evaluation.result(split, about)
    if out is not None:
        write_result(result, out)
    for table in (classification_table(result), retrieval_table(result)):
        if table.rows:
            output.print_table(table.columns, table.rows, title=f"{result.model}, {split}")
    output.print_demo(model)
    (encoder,) = evaluation.first.values()
    raise typer.Exit(output.report_skipped(encoder.failures, encoder.count))


if __name__ == "__main__":
    run_command("synthetic.suite", suite)
