"""Evaluators of one layer's tokens, encoded here or cached by layer analysis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.feature_cache import CachedTokens, encode_layer
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.bootstrap import check_scipy
from perception_encoder.evaluation.statistics.scores import Scores, check_head_seeds, with_head_seeds
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked

CHUNK = 16
"""Number of images or videos to encode at a time."""


class LayerEvaluator(ABC):
    """A task on the tokens of one layer: `images` says what to encode, `score` computes metrics from the features."""

    name: str
    """Name of the task in errors; one word."""
    pool: ClassVar[str] = "tokens"
    """The `pe embed --pool` that the metrics apply to: "tokens" for maps, "mean" for one embedding per image."""
    pools: ClassVar[Mapping[str, str]] = {}
    """Exceptions to `pool`, by metric."""

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of everything besides features that scores depend on: targets, settings."""

    @abstractmethod
    def images(self, encoder: LayerFeatures, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the sets of images to encode; DataError if the data lack what the task needs."""

    @abstractmethod
    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Evaluate features of `images`, in their order; each may be read once, one after the other.

        If no image could be decoded, the features have no rows. Raises DataError if nothing can be scored.
        """

    def run(self, encoder: LayerFeatures, track: Track = untracked) -> list[Measurement]:
        """Encode the images at the selected layer, one set after the other, and score them: see `Evaluator`."""
        check_scipy()
        failures: list[InputError] = []

        def encoded() -> Iterator[CachedTokens]:
            for images in self.images(encoder, track):
                features = encode_layer(encoder, images, encoder.layer, CHUNK, track)
                failures.extend(features.failures)
                yield features

        measurement = self.score(encoded(), track)
        return [replace(measurement, failures=tuple(failures))]


class HeadEvaluator(LayerEvaluator):
    """A task with a head that is fitted on one dataset's features and tested on another's."""

    method: str
    classes: int = 0
    settings: Mapping[str, str] = {}

    def __init__(
        self,
        name: str,
        train: tuple[ImageSet, Callable[[int], object]],
        test: tuple[ImageSet, Callable[[int], object]],
        head: Any,
        image_size: tuple[int, int] | None,
        head_seeds: int,
    ) -> None:
        """`train`, `test`: a dataset with a function that decodes a target by the image's index.

        `head`: its configuration, with a `FitConfig` as `fit`. `image_size`: height and width that images are squashed
        to; the encoder's own by default. `head_seeds`: heads to fit, each with its own seed; one gives no interval.
        """
        check_head_seeds(head_seeds)
        self.name, self.head, self.image_size, self.head_seeds = name, head, image_size, head_seeds
        self._sets = {"train": train, "test": test}
        self._images: tuple[EncoderInputs, ...] = ()

    @abstractmethod
    def fit(self, head: Any, train: CachedTokens, test: CachedTokens, track: Track) -> Sequence[Scores]:
        """Fit a head with this configuration on the training images, and score it on the test images."""

    def images(self, encoder: LayerFeatures, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the training and the test images with usable targets, which are decoded once for all encoders."""
        self._images = self._images or tuple(
            EncoderInputs.of(f"{self.name}, {part}", images, target, self.image_size, track)
            for part, (images, target) in self._sets.items()
        )
        return self._images

    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Fit and test a head with each seed; DataError if no image of one of the datasets can be used."""
        parts = []
        for part in features:
            if not len(part.rows):
                reason = f"; the first: {part.failures[0]}" if part.failures else ""
                raise DataError(f"{self.name}: no image can be used{reason}")
            parts.append(part)
        train, test = parts

        def score(seed: int) -> Sequence[Scores]:
            return self.fit(replace(self.head, fit=self.head.fit.with_seed(seed)), train, test, track)

        scores = with_head_seeds(self.head_seeds, score)
        settings = {"layer": str(test.layer), "train": str(len(train.rows)), **self.settings}
        return Measurement(
            task=self._sets["test"][0].name,
            method=self.method,
            classes=self.classes,
            settings={**settings, "head seeds": str(self.head_seeds)},
            scores=scores,
        )
