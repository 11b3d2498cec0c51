"""Score one layer's tokens, encoded here or cached by layer analysis; fit heads on them with several seeds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from perception_encoder.datasets.labelled import ImageSet, LabelledImages
from perception_encoder.errors import ConfigError, DataError, InputError
from perception_encoder.evaluation.feature_cache import CachedTokens, encode_layers
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.results import Evaluator, Result, run_evaluators
from perception_encoder.evaluation.statistics.bootstrap import check_scipy
from perception_encoder.evaluation.statistics.scores import Label, Score, Scores, measure_all, with_head_seeds
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked

CHUNK = 16
ScoreLayer = Callable[[Iterable[CachedTokens]], Iterator[Score]]
"""Scores the tokens of some inputs, in their order; each may be read once, one after the other.

If no image could be decoded, the tokens have no rows.
"""


class LayerSource:
    """The tokens of a model's selected layer, for evaluators: encoded for each."""

    def __init__(self, features: LayerFeatures) -> None:
        self.features, self.name = features, features.name

    def score(
        self, inputs: Sequence[EncoderInputs], depends: str, score: ScoreLayer, track: Track = untracked
    ) -> Iterator[Score]:
        """Encode inputs at the layer, one after the other, and yield their scores with the failures.

        `depends`: a digest of everything besides tokens that the scores depend on: targets, settings.
        """
        check_scipy()
        failures: list[InputError] = []

        def encoded() -> Iterator[CachedTokens]:
            for images in inputs:
                (tokens,) = encode_layers(self.features, images, [self.features.layer], None, track, CHUNK).values()
                failures.extend(tokens.failures)
                yield tokens

        scores = list(score(encoded()))
        yield from (replace(item, failures=tuple(failures)) for item in scores)


def decoded(images: LabelledImages, tokens: CachedTokens) -> LabelledImages:
    """Return the images that have tokens; DataError if there is none."""
    if not len(tokens.rows):
        raise DataError(f"{images.name}: no image can be decoded; the first: {tokens.failures[0]}")
    return images.select(tokens.rows.tolist())


def evaluate_layer(
    evaluators: Iterable[Evaluator[LayerSource]],
    features: LayerFeatures,
    split: str,
    track: Track = untracked,
    transform: str = "squash",
) -> Result:
    """Run evaluators on a model at its selected layer."""
    return run_evaluators(evaluators, {transform: LayerSource(features)}, split, features.about, track)


class HeadEvaluator(ABC):
    """A task with a head that is fitted on one dataset's features and tested on another's."""

    label: Label
    """Of the scores, without the settings that all heads have."""

    def __init__(
        self,
        name: str,
        train: tuple[ImageSet, Callable[[int], object]],
        test: tuple[ImageSet, Callable[[int], object]],
        head: Any,
        image_size: tuple[int, int] | None,
        head_seeds: int,
    ) -> None:
        """Prepare a task; its heads are fitted when it runs.

        Args:
            name: One word, for errors.
            train, test: A dataset with a function that decodes a target by the image's index.
            head: Its configuration, with a `FitConfig` as `fit`.
            image_size: Height and width that images are squashed to; by default the encoder's own.
            head_seeds: Heads to fit, each with its own seed; one gives no interval.
        """
        if head_seeds < 1:
            raise ConfigError(f"the number of head seeds is {head_seeds}; it must be at least 1, and 2 for an interval")
        self.name, self.head, self.image_size, self.head_seeds = name, head, image_size, head_seeds
        self._sets = {"train": train, "test": test}
        self._inputs: tuple[EncoderInputs, ...] = ()

    @property
    @abstractmethod
    def digest(self) -> str:
        """Digest of everything besides tokens that the scores depend on."""

    @abstractmethod
    def fit(self, head: Any, train: CachedTokens, test: CachedTokens, track: Track) -> Sequence[Scores]:
        """Fit a head with a configuration on the training images; return its scores on the test images."""

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        """Yield the scores of heads with different seeds; DataError if no image of a dataset can be used."""
        yield from source.score(self.inputs(track), self.digest, partial(self._score, track=track), track)

    def inputs(self, track: Track = untracked) -> Sequence[EncoderInputs]:
        """Return the training and the test images with usable targets, which are decoded once for all encoders."""
        self._inputs = self._inputs or tuple(
            EncoderInputs.of(f"{self.name}, {part}", images, target, self.image_size, track)
            for part, (images, target) in self._sets.items()
        )
        return self._inputs

    def _score(self, features: Iterable[CachedTokens], track: Track) -> Iterator[Score]:
        parts = []
        for part in features:
            if not len(part.rows):
                reason = f"; the first: {part.failures[0]}" if part.failures else ""
                raise DataError(f"{self.name}: no image can be used{reason}")
            parts.append(part)
        train, test = parts
        items = with_head_seeds(
            self.head_seeds,
            lambda seed: self.fit(replace(self.head, fit=self.head.fit.with_seed(seed)), train, test, track),
        )
        settings = {"layer": str(test.layer), "train": str(len(train.rows)), **self.label.settings}
        settings["head seeds"] = str(self.head_seeds)
        yield from measure_all(items, replace(self.label, settings=settings))
