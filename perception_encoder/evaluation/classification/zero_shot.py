"""Zero-shot classification by the nearest prompt ensemble (section 2.5, appendix B.1.2): evaluated, or of any images.

A class is the mean embedding of many sentences about it: templates with `{}` for the class, those that OpenAI published
with CLIP, bad articles included. Probabilities are the softmax of cosine similarities times the model's logit scale, or
for SigLIP the sigmoids after its bias, as the model was trained.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, Unpack, overload

import numpy as np

from perception_encoder.datasets.labelled import LabelledImages
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.embeddings import Embeddings, class_indices
from perception_encoder.evaluation.inputs import FRAMES
from perception_encoder.evaluation.statistics.scores import ItemScores, Label, Score, measure_all
from perception_encoder.formats.entries import read_lines
from perception_encoder.formats.listing import check_paths
from perception_encoder.inference.collection import encode_media, list_media_items
from perception_encoder.inference.load import ModelLike, as_encoder
from perception_encoder.inference.model_spec import ModelKeywords
from perception_encoder.preprocess.prompts import PHOTO_TEMPLATES
from perception_encoder.preprocess.source import as_paths
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import label_probabilities, unit_rows

IMAGENET_TEMPLATES = tuple(
    (files("perception_encoder.evaluation.classification") / "imagenet_templates.txt").read_text("utf-8").splitlines()
)

_MEDIA = ("a photo", "a video", "a example", "a demonstration")
_DOING = ("", "using ", "doing ", "during ", "performing ", "practicing ")
KINETICS_TEMPLATES = tuple(
    f"{medium} of {doer}{{}}." for medium in _MEDIA for doer in ("", *(f"a person {doing}" for doing in _DOING))
)
"""28 templates for actions in videos."""

ACTION_TEMPLATES = tuple(
    f"{medium} of {article} person {doing}{{}}." for doing in _DOING for article in ("a", "the") for medium in _MEDIA
)
"""48 templates for the actions of UCF101 and HMDB51."""

PROMPTS: Mapping[str, tuple[str, ...]] = {
    "imagenet": IMAGENET_TEMPLATES,
    "kinetics": KINETICS_TEMPLATES,
    "actions": ACTION_TEMPLATES,
    "photo": PHOTO_TEMPLATES,
    "name": ("{}",),
}
"""Templates by the name that results are labelled with; `photo` has those of ImageNet's 80 that the built-in model's
captions use, all about plain photographs."""


DATASET = "dataset"


def find_templates(name: str) -> tuple[str, ...]:
    """Return the named templates, or the lines of a file, with {} or {c} for the class; ConfigError otherwise."""
    if name in PROMPTS:
        return PROMPTS[name]
    if not os.path.isfile(name):
        raise ConfigError(f"unknown prompts {name!r}; choose from {', '.join(PROMPTS)}, or give a file of templates")
    try:
        lines = [line.strip().replace("{c}", "{}") for line in read_lines(Path(name)) if line.strip()]
    except DataError as error:
        raise ConfigError(str(error)) from None
    if not lines or any(line.count("{}") != 1 for line in lines):
        raise ConfigError(f"{name} must hold one template per line, each with one {{}} or {{c}} for the class")
    return tuple(lines)


def prompted_name(label: str, prompts: str) -> str:
    """Return a class's name for prompts: without parentheses under `kinetics`, as in the reference's evaluation.

    "passing American football (in game)" is then "passing American football in game".
    """
    return label.replace("(", "").replace(")", "") if prompts == "kinetics" else label


def ensemble(
    source: Embeddings, classes: Sequence[str], templates: Sequence[str], track: Track = untracked
) -> np.ndarray:
    """Return unit vectors of the classes (K, D): the renormalized mean over templates of unit text vectors.

    Raises ModelError if a vector is not finite.
    """
    texts = [template.replace("{}", name) for name in classes for template in templates]
    vectors = source.texts(texts, "prompts", track)
    return unit_rows(vectors.reshape(len(classes), len(templates), -1).mean(axis=1))  # (K, D)


TOP = 5
FEW = 10
"""Items of a class. Resampled within a class of n items, a mean varies by 1 - 1/n of what it should: by 0 for one."""


@dataclass(frozen=True)
class ZeroShotClassifier:
    """Embeddings of classes, for comparison with image embeddings."""

    classes: tuple[str, ...]
    vectors: np.ndarray
    """Unit, (K, D)."""

    @classmethod
    def of(
        cls,
        source: Embeddings,
        classes: Sequence[str],
        prompts: str,
        names: Mapping[str, str] | None = None,
        track: Track = untracked,
        templates: Sequence[str] = (),
    ) -> ZeroShotClassifier:
        """Encode classes with the named prompts (see `PROMPTS`), under their own names or the given ones.

        `templates`: those of the name, if they come with the dataset. Raises ConfigError for unknown prompts, and
        ModelError if an embedding is not finite.
        """
        templates = templates or find_templates(prompts)
        texts = [prompted_name((names or {}).get(item, item), prompts) for item in classes]
        return cls(tuple(classes), ensemble(source, texts, templates, track))

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Return the cosines of unit embeddings (n, D) to the classes, (n, K)."""
        return vectors @ self.vectors.T

    def rank(self, vectors: np.ndarray, top: int) -> np.ndarray:
        """Return the indices of the `top` nearest classes of unit embeddings (n, D), nearest first, (n, top)."""
        return highest(self.scores(vectors), top)


class ZeroShotEvaluator:
    """Classification with some sets of prompts."""

    def __init__(self, task: LabelledImages, prompts: Sequence[str], frames: int = FRAMES) -> None:
        """`prompts`: names in `PROMPTS`, or "dataset" for the dataset's own.

        Raises ConfigError for an unknown name, DataError for a single class.
        """
        self.templates = {
            name: task.templates if name == DATASET and task.templates else find_templates(name) for name in prompts
        }
        check_classes(task.name, task.classes)
        self.task, self.frames = task, frames

    def run(self, source: Embeddings, track: Track = untracked) -> Iterator[Score]:
        """Yield mean class accuracy, top-1, and top-5 among more than five classes, for each set of prompts."""
        task = self.task
        classifiers = {
            prompts: ZeroShotClassifier.of(source, task.classes, prompts, task.names, track, templates)
            for prompts, templates in self.templates.items()
        }
        features, top = source.images(task, track, self.frames), ranked_classes(task.classes)
        for prompts, classifier in classifiers.items():
            label = Label(
                task=task.name,
                method="zero-shot",
                prompts=prompts,
                classes=len(task.classes),
                failures=features.failures,
            )
            ranked = classifier.rank(features.vectors, top)
            yield from measure_all(
                accuracies(ranked, features.keys, features.labels, task.classes, task.accepted), label
            )


def highest(scores: np.ndarray, top: int) -> np.ndarray:
    """Return the indices of the `top` highest scores of each row, highest first: (n, K) to (n, top)."""
    if top == 1:
        return scores.argmax(axis=1)[:, None]
    some = np.sort(np.argpartition(-scores, top - 1, axis=1)[:, :top], axis=1)
    order = np.argsort(-np.take_along_axis(scores, some, axis=1), axis=1, kind="stable")
    return np.take_along_axis(some, order, axis=1)


def ranked_classes(classes: Sequence[str]) -> int:
    """Return how many classes to rank: 5 only if there are more than five classes."""
    return TOP if len(classes) > TOP else 1


def accuracies(
    predicted: np.ndarray,
    keys: Sequence[str],
    labels: Sequence[str],
    classes: Sequence[str],
    accepted: Mapping[str, frozenset[str]] | None = None,
) -> tuple[ItemScores, ...]:
    """Score predicted indices of `classes`, (n,), or best first (n, top): mean class accuracy, top-1, perhaps top-5.

    In the interval of the mean class accuracy items are resampled within their class. If a class has fewer than `FEW`
    items, they are resampled across all classes instead, each with its weight in the mean: that interval can only be
    too wide, while the other would be too narrow, or of no width at all.

    `keys`, `labels`: of the n items. `accepted`: the classes that are right for a label, if not just the label itself.
    """
    ranked = predicted if predicted.ndim == 2 else predicted[:, None]  # (n, top)
    hits = _hits(ranked, labels, classes, accepted or {})
    names = [f"{key}: {label}" for key, label in zip(keys, labels, strict=True)]
    _, groups, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    grouped, weights = (groups, None) if sizes.min(initial=FEW) >= FEW else (None, 1 / sizes[groups])
    scores = [
        ItemScores.of("mean class accuracy", hits[:, 0], names, groups=grouped, weights=weights),
        ItemScores.of("top-1", hits[:, 0], names),
    ]
    if ranked.shape[1] >= TOP:
        scores.append(ItemScores.of(f"top-{TOP}", np.any(hits[:, :TOP], axis=1), names))
    return tuple(scores)


def _hits(
    ranked: np.ndarray, labels: Sequence[str], classes: Sequence[str], accepted: Mapping[str, frozenset[str]]
) -> np.ndarray:
    if not accepted:
        return np.equal(ranked, class_indices(labels, classes)[:, None])
    known = sorted(set(labels))
    table = np.array([[item in accepted[label] for item in classes] for label in known])  # (labels, K)
    return table[class_indices(labels, known)[:, None], ranked]


def check_classes(task: str, classes: Sequence[str]) -> None:
    """Raise `DataError` for a task with a single class."""
    if len(classes) < 2:
        raise DataError(f"{task} has only the class {classes[0]!r}; classification needs at least two")


class Guess(NamedTuple):
    """A label and its probability among all the labels."""

    label: str
    probability: float


def read_labels(labels: str | Sequence[str]) -> list[str]:
    """Return labels in order, without blanks and duplicates, from a list, "cat,dog,other pet", or "@labels.txt".

    Raises ConfigError for fewer than two, and if the file cannot be read.
    """
    if isinstance(labels, str) and labels.startswith("@"):
        try:
            labels = Path(labels[1:]).read_text(encoding="utf-8-sig").splitlines()
        except (UnicodeDecodeError, OSError) as error:
            reason = (error.strerror or error) if isinstance(error, OSError) else "it is not UTF-8 text"
            raise ConfigError(f"{labels[1:]} cannot be read: {reason}; give a file with one label per line") from None
    parts = labels.split(",") if isinstance(labels, str) else labels
    names = list(dict.fromkeys(label.strip() for label in parts if label.strip()))
    if len(names) < 2:
        given = f"only {names[0]!r} was given" if names else "none was given"
        raise ConfigError(f"classification needs at least two labels, and {given} (from a file: @labels.txt)")
    return names


@dataclass(frozen=True, kw_only=True)
class ClassifiedFile:
    """An image or a video with its most probable labels, best first."""

    id: str
    """The path, or the value of a table's `id` column."""
    path: str
    labels: tuple[Guess, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"id": self.id, "path": self.path, "labels": [guess._asdict() for guess in self.labels]}


@dataclass(frozen=True, kw_only=True)
class Classification(Sequence[ClassifiedFile]):
    """A sequence of files with their labels, in the order of the inputs."""

    model: str
    prompts: str
    labels: tuple[str, ...]
    files: tuple[ClassifiedFile, ...]
    skipped: tuple[InputError, ...]
    left_out: Mapping[str, int]
    """Number of other files in the directories, by suffix."""

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, index: int) -> ClassifiedFile: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ClassifiedFile]: ...
    def __getitem__(self, index: int | slice) -> ClassifiedFile | Sequence[ClassifiedFile]:
        return self.files[index]

    def to_dict(self) -> dict[str, Any]:
        head = {"model": self.model, "prompts": self.prompts, "labels": list(self.labels)}
        files, skipped = [file.to_dict() for file in self.files], [error.to_dict() for error in self.skipped]
        return {**head, "files": files, "skipped": skipped, "left_out": dict(self.left_out)}


def classify(
    media: str | Path | Iterable[str | Path],
    labels: str | Sequence[str],
    *,
    prompts: str = "photo",
    model: ModelLike = None,
    top: int = 3,
    progress: Track = untracked,
    **keywords: Unpack[ModelKeywords],
) -> Classification:
    """Classify images and videos zero-shot by a list of labels; unreadable ones are skipped and reported.

    Args:
        media: Images, videos, directories, globs, tables, tars, URLs.
        labels: Two or more, or as one string, "cat,dog,other pet" or "@labels.txt".
        prompts: Templates that labels are put into: photo (25), imagenet (80), kinetics (28), actions (48) or name.
        model: A model's name or path, or an encoder; by default the default model (see `pe models`).
        top: Number of labels returned for each file.
        **keywords: Fields of a `ModelSpec`.

    Raises:
        MediaNotFoundError: A path does not exist.
        DataError: There are no files.
        ConfigError: There are fewer than two labels, the prompts are unknown, or the model has no text tower.
        ModelError: Loading fails: see `pe.load`.

    Examples:
        >>> for file in pe.classify("photos", ["cat", "dog", "other pet"]):
        ...     print(file.path, file.labels[0].label)
    """
    paths = as_paths(media)
    check_paths(paths)
    left_out: Counter[str] = Counter()
    names = read_labels(labels)
    items = list_media_items(paths, left_out)
    encoder = as_encoder(model, **keywords)
    if not encoder.reads_texts:
        raise ConfigError(f"{encoder.name} has no text tower, so it cannot label images; use a Core model")
    classifier = ZeroShotClassifier.of(Embeddings(encoder), names, prompts)
    collection = encode_media(encoder, items, progress)
    cosines = classifier.scores(collection.vectors)
    probabilities = label_probabilities(cosines, encoder.logit_scale, encoder.towers.logit_bias)
    best = highest(probabilities, min(top, len(names)))
    files = []
    for item, row, columns in zip(collection.items, probabilities, best, strict=True):
        guesses = tuple(Guess(names[column], float(row[column])) for column in columns)
        files.append(ClassifiedFile(id=item.id, path=item.path, labels=guesses))
    return Classification(
        model=encoder.name,
        prompts=prompts,
        labels=tuple(names),
        files=tuple(files),
        skipped=tuple(collection.failures),
        left_out=left_out,
    )
