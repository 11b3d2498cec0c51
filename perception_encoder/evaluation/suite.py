"""The evaluation suite: labelled pictures, zero-shot and by a linear probe, and drawings by their names.

Every figure is labelled with its transform and prompts. The classes of a task are those of its train and evaluated
splits together. The probe picks its strength on the val split, so it is measured on `test` only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from perception_encoder.datasets.labelled import LabelledPictures, load_labelled
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.classification.linear_probe import fit_probe
from perception_encoder.evaluation.classification.prompts import PROMPTS, ensemble, find_templates, prompted_name
from perception_encoder.evaluation.classification.zero_shot import accuracies, check_classes, classify
from perception_encoder.evaluation.features import Features, encode_pictures, relabel
from perception_encoder.evaluation.results import Measurement, Result
from perception_encoder.evaluation.retrieval import dual_softmax, found_first
from perception_encoder.evaluation.statistics.scores import ItemScores, measure
from perception_encoder.formats.media_directory import Source
from perception_encoder.models.protocols import ImageTextEncoder
from perception_encoder.progress import Track, untracked

SPLITS = ("test", "val")
DEFAULT_PROMPTS = ("photo", "imagenet")


class Suite:
    """One model's figures in the making.

    `encoders`: the model under each transform, by the transform's name; the probe and retrieval take the first.
    `prompts`: names of templates (see `PROMPTS`); photographs are classified with each, and the first stands in front.
    """

    def __init__(
        self,
        encoders: Mapping[str, ImageTextEncoder],
        prompts: Sequence[str] = DEFAULT_PROMPTS,
        track: Track = untracked,
    ) -> None:
        self.encoders, self.track = encoders, track
        self.templates = {name: find_templates(name) for name in prompts}
        self.transform = next(iter(encoders))
        self.measurements: list[Measurement] = []
        self.failures: list[InputError] = []
        self.pictures = 0
        """How many were read, those that could not be decoded included; each counts once."""
        self._encoded: dict[tuple[str, tuple[str, ...], tuple[Source, ...]], Features] = {}

    def classify_photos(self, folder: Path, split: str = "test") -> None:
        """Measure every classification task of a folder of labelled pictures (see `load_labelled`)."""
        if split not in SPLITS:
            raise ConfigError(f"figures are measured on {' or '.join(SPLITS)}, not on {split!r}")
        tasks, train = load_labelled(folder, split), load_labelled(folder, "train")
        val = load_labelled(folder, "val") if split == "test" else {}
        classes = {name: _classes(name, task, train.get(name)) for name, task in tasks.items()}
        for name, task in tasks.items():
            self._classify(task, classes[name])
            if name in train and name in val:
                self._probe(task, train[name], val[name], classes[name])

    def retrieve_drawings(self, folder: Path) -> None:
        """Measure the never-trained drawings of a folder that `pe data prepare` made: each by its name."""
        for name, task in load_labelled(folder, "unseen").items():
            if len(task.classes) < len(task.labels):
                raise DataError(f"{name}: two drawings have one name; retrieval by name needs distinct ones")
            pictures = self._encode(task, self.transform)
            texts = ensemble(self.encoders[self.transform], pictures.labels, PROMPTS["name"])
            scores = texts @ pictures.vectors.T  # (n, n)
            ways = {"picture by name": scores, "name of picture": scores.T}
            ways |= {f"{way}, dual softmax": dual_softmax(scores) for way, scores in ways.items()}
            found = [ItemScores.of(f"{way} R@1", found_first(each), pictures.keys) for way, each in ways.items()]
            self._add(name, "retrieval", self.transform, "name", len(texts), found)

    def result(self, split: str, about: Mapping[str, str]) -> Result:
        """All that was measured."""
        return Result(
            model=self.encoders[self.transform].name,
            split=split,
            measurements=tuple(self.measurements),
            failures=tuple(str(failure) for failure in self.failures),
            about=dict(about),
        )

    def _classify(self, task: LabelledPictures, classes: Sequence[str]) -> None:
        for prompts, templates in self.templates.items():
            named = [prompted_name(each, prompts) for each in classes]
            vectors = ensemble(self.encoders[self.transform], named, templates)
            for transform in self.encoders:
                features = self._encode(task, transform)
                scores = accuracies(classify(features.vectors, vectors), features, classes)
                self._add(task.name, "zero-shot", transform, prompts, len(classes), scores)

    def _probe(
        self, task: LabelledPictures, train: LabelledPictures, val: LabelledPictures, classes: Sequence[str]
    ) -> None:
        probe = fit_probe(self._encode(train, self.transform), self._encode(val, self.transform), classes)
        features = self._encode(task, self.transform)
        scores = accuracies(probe.classify(features.vectors), features, classes)
        self._add(task.name, "linear probe", self.transform, "", len(classes), scores)

    def _add(
        self, task: str, method: str, transform: str, prompts: str, classes: int, scores: Sequence[ItemScores]
    ) -> None:
        metrics = tuple(map(measure, scores))
        found = Measurement(task, method, transform, prompts, classes, metrics, scores=tuple(scores))
        self.measurements.append(found)

    def _encode(self, pictures: LabelledPictures, transform: str) -> Features:
        """Encode pictures once, whichever tasks they serve."""
        known = (transform, pictures.keys, pictures.pictures)
        if known not in self._encoded:
            features = self._encoded[known] = encode_pictures(self.encoders[transform], pictures, self.track)
            if transform == self.transform:
                self.pictures += len(pictures.keys)
                self.failures += features.failures
        return relabel(self._encoded[known], pictures)


def _classes(name: str, task: LabelledPictures, train: LabelledPictures | None) -> tuple[str, ...]:
    classes = tuple(sorted({*task.labels, *(train.labels if train else ())}))
    check_classes(name, classes)
    return classes
