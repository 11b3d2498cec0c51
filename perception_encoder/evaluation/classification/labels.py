"""Label images and videos zero-shot from a list of labels, with probabilities (section 2.5).

The probabilities are the softmax of cosine similarities times the model's logit scale, or for SigLIP the sigmoids after
its bias, as the model was trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Unpack, overload

from perception_encoder.errors import ConfigError, InputError
from perception_encoder.evaluation.classification.zero_shot import ZeroShotClassifier, highest
from perception_encoder.inference.collection import encode_media, list_media_items
from perception_encoder.inference.listing import check_paths
from perception_encoder.inference.load import ModelLike, as_encoder
from perception_encoder.inference.model_spec import ModelKeywords
from perception_encoder.preprocess.source import as_paths
from perception_encoder.progress import Track, untracked
from perception_encoder.vectors import label_probabilities


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
    """Classify images and videos zero-shot by a list of labels.

        for file in pe.classify("photos", ["cat", "dog", "other pet"]):
            print(file.path, file.labels[0].label)

    `media`: images, videos, directories, globs, tables, tars, URLs. `labels`: two or more, or as one string,
    "cat,dog,other pet" or "@labels.txt". `prompts`: the templates that labels are put into: photo (25), imagenet (80),
    kinetics (28), actions (48) or name. `model`: an encoder, or its name or path; by default that of `pe models`.
    `top`: labels returned for each file. `keywords`: see `load`. Unreadable files are skipped and reported. Raises
    MediaNotFoundError for a missing path, DataError without files, ConfigError, and what loading the model raises.
    """
    paths = as_paths(media)
    check_paths(paths)
    left_out: Counter[str] = Counter()
    names = read_labels(labels)
    items = list_media_items(paths, left_out)
    encoder = as_encoder(model, **keywords)
    if not encoder.reads_texts:
        raise ConfigError(f"{encoder.name} has no text tower, so it cannot label images; use a Core model")
    classifier = ZeroShotClassifier.of(encoder, names, prompts)
    collection = encode_media(encoder, items, progress)
    cosines = classifier.scores(collection.vectors)
    probabilities = label_probabilities(cosines, encoder.logit_scale, encoder.logit_bias)
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
