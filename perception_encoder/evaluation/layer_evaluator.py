"""The base of evaluators that read one layer's tokens: of features encoded here, or extracted by layer analysis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from perception_encoder.datasets.image_set import ImageSet
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.feature_cache import FeatureCache
from perception_encoder.evaluation.layer_features import CachedTokens, EncoderInputs
from perception_encoder.evaluation.results import Measurement
from perception_encoder.evaluation.statistics.bootstrap import check_scipy
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked

AnySet = TypeVar("AnySet", bound=ImageSet)

CHUNK = 16
"""Images, or videos, that are encoded at a time."""


class LayerEvaluator(ABC):
    """A task that is evaluated on the tokens of one layer."""

    name: str
    """Names the task in errors; of one word."""

    @property
    def failures(self) -> Sequence[InputError]:
        """Inputs besides images that could not be used, such as masks; known before anything is scored."""
        return ()

    @property
    @abstractmethod
    def digest(self) -> str:
        """Of everything that scores depend on besides features: targets, settings."""

    @abstractmethod
    def images(self, encoder: LayerFeatures, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the sets of images to encode; DataError if the data lack what the task needs."""

    @abstractmethod
    def score(self, features: Iterable[CachedTokens], track: Track = untracked) -> Measurement:
        """Evaluate features of `images`, in their order, which may be read once, one after the other.

        Features of images none of which could be decoded have no rows. Raises DataError if nothing can be scored.
        """

    def pool(self, metric: str) -> str:
        """Return the `pe embed --pool` that a metric is of: "tokens" for maps, "mean" for an embedding an image."""
        return "tokens"

    def check_extras(self) -> None:
        """Raise MissingExtraError for a package that the intervals need, before anything is encoded."""
        check_scipy()

    def run(self, encoder: LayerFeatures, track: Track = untracked) -> list[Measurement]:
        """Encode the images at one layer, one set after the other, and score them: see `Evaluator`."""
        self.check_extras()
        failures: list[InputError] = []
        cache = FeatureCache(dtype="float32", chunk=CHUNK)

        def encoded() -> Iterator[CachedTokens]:
            for images in self.images(encoder, track):
                cached = cache.encode_layers(encoder, images, [encoder.layer], track)
                features = cached.read(encoder.layer)
                failures.extend(features.failures)
                yield features

        measurement = self.score(encoded(), track)
        return [replace(measurement, failures=(*self.failures, *failures))]


class HeadEvaluator(LayerEvaluator, Generic[AnySet]):
    """A task whose head is fitted on one dataset's features and tested on another's."""

    train: AnySet
    test: AnySet
    image_size: tuple[int, int] | None = None
    """Height and width that images are squashed to; the encoder's own by default."""
    _images: tuple[EncoderInputs, ...] = ()

    @abstractmethod
    def targets(self, track: Track) -> tuple[Callable[[int], object], Callable[[int], object]]:
        """Return functions that decode a target of the training and of the test set, by the image's index."""

    def check_targets(self, train: Callable[[int], object], test: Callable[[int], object]) -> None:
        """Look at the targets after all were read once; does nothing by default."""

    def images(self, encoder: LayerFeatures, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the training and the test images whose targets are usable; decoded once, whatever the encoder."""
        if not self._images:
            train, test = self.targets(track)
            self._images = (
                EncoderInputs.of(f"{self.name}, train", self.train, train, self.image_size, track),
                EncoderInputs.of(f"{self.name}, test", self.test, test, self.image_size, track),
            )
            self.check_targets(train, test)
        return self._images

    def train_and_test(self, features: Iterable[CachedTokens]) -> tuple[CachedTokens, CachedTokens]:
        """Return the features of the two datasets; DataError if no image of one could be used."""
        parts = []
        for part in features:
            if not len(part.rows):
                reason = f"; the first: {part.failures[0]}" if part.failures else ""
                raise DataError(f"{self.name}: no image can be used{reason}")
            parts.append(part)
        train, test = parts
        return train, test
