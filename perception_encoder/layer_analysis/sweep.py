"""Evaluate every layer of a model on several tasks, with features extracted once, and recommend a layer.

A layer's scores are cached next to the features as soon as they are computed, under a digest of what they depend on.
The interval of the best layer's advantage over the last holds for all layers at once (Bonferroni), as it was chosen on
the items that it is evaluated on; the best layer is recommended only if that interval excludes zero.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from perception_encoder.errors import DataError, InputError, ModelError
from perception_encoder.evaluation.feature_cache import CachedTokens, FeatureCache, encode_layers
from perception_encoder.evaluation.inputs import EncoderInputs
from perception_encoder.evaluation.layer_evaluator import LayerSource, ScoreLayer
from perception_encoder.evaluation.results import Evaluator, format_value
from perception_encoder.evaluation.statistics.bootstrap import Estimate, EstimatedDifference
from perception_encoder.evaluation.statistics.scores import Score, estimate
from perception_encoder.files import digest
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked
from perception_encoder.records import from_fields
from perception_encoder.runtime.layer_towers import LayerTokens
from perception_encoder.store import Store

DIGITS = 6
"""Decimals of a draw and of a block's contribution in JSON."""


@dataclass(frozen=True, kw_only=True)
class LayerScore(Estimate):
    """A metric at one layer; all layers and models use the same draws, so that differences pair."""

    name: str
    n: int
    pool: str
    """The `pe embed --pool` for this metric: "mean" for one embedding per image, "tokens" for a map."""
    lower_is_better: bool = False

    @classmethod
    def of(cls, score: Score) -> LayerScore:
        """Return an evaluator's score with its draws."""
        pool, values = score.settings.get("pool", "tokens"), vars(estimate(score.items))
        return cls(**values, name=score.name, n=score.n, pool=pool, lower_is_better=score.lower_is_better)

    def to_dict(self) -> dict[str, Any]:
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {**vars(self), **{name: [round(float(v), DIGITS) for v in values] for name, values in arrays.items()}}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> LayerScore:
        """Read the result of `to_dict`; ValueError for anything else."""
        return from_fields(cls, value)


@dataclass(frozen=True, kw_only=True)
class LayerCurve:
    """A metric of one task over the layers of a model."""

    model: str
    task: str
    metric: str
    depth: int
    scores: dict[int, LayerScore]

    @property
    def unit(self) -> str:
        return self.scores[self.last].unit

    @property
    def pool(self) -> str:
        return self.scores[self.last].pool

    @property
    def lower_is_better(self) -> bool:
        return self.scores[self.last].lower_is_better

    @property
    def last(self) -> int:
        """The last layer, the model's output: it is always evaluated."""
        return max(self.scores)

    @property
    def best(self) -> int:
        """The layer with the best score; the earliest on a tie."""
        sign = -1 if self.lower_is_better else 1
        return max(self.scores, key=lambda layer: (sign * self.scores[layer].value, -layer))


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """The best layer of a curve compared with the last."""

    curve: LayerCurve
    best: int
    last: int
    gain: Score
    """Gain of the best layer over the last on the same items; at least 0, also for errors. Its interval holds for
    all layers at once."""
    as_good: tuple[int, ...]
    """Other layers that are not shown to be worse than the best."""

    @property
    def is_real(self) -> bool:
        return self.gain.interval is not None and self.gain.interval[0] > 0

    @property
    def layer(self) -> int:
        """The recommended layer: the best, or the last unless the best is shown to be better."""
        return self.best if self.is_real else self.last

    @property
    def command(self) -> str:
        return f"--layer {self.layer} --pool {self.curve.pool}"

    def text(self) -> str:
        curve, best, last = self.curve, self.best, self.last
        at_best, at_last = (format_value(curve.scores[layer].value, curve.unit) for layer in (best, last))
        if best == last:
            return f"Take the last layer, {last}: {at_last}; no other is better. {self._peers()}".strip()
        if self.gain.interval is None:
            return (
                f"The last layer, {last}, has {at_last}, layer {best} has {at_best}; without an interval (one block, "
                "or one seed of a head) this shows nothing."
            )
        between = format_difference(*self.gain.interval, curve.unit)
        if not self.is_real:
            return (
                f"Take the last layer, {last}: {at_last}. Layer {best} has {at_best}, but these items do not show that "
                f"it is better (difference {between})."
            )
        gain = format_difference(self.gain.value, None, curve.unit)
        return (
            f"Take layer {best}: {at_best} against {at_last} at the last layer, {last}; that is {gain} better "
            f"(95 % interval {between}). {self._peers()}"
        ).strip()

    def _peers(self) -> str:
        names = ", ".join(map(str, self.as_good))
        subject = f"Layer {names} is" if len(self.as_good) == 1 else f"Layers {names} are"
        return f"{subject} not shown to be worse on these items." if names else ""


def recommend(curve: LayerCurve) -> Recommendation:
    """Compare a curve's layers."""
    best, last, others = curve.best, curve.last, len(curve.scores) - 1

    def gain(layer: int) -> EstimatedDifference:
        """Return by how much the best layer exceeds another."""
        one, other = curve.scores[best], curve.scores[layer]
        return other.less(one) if curve.lower_is_better else one.less(other)

    over_last, items = gain(last), curve.scores[best].n
    interval = over_last.interval(max(1, others))
    metric = Score(name=curve.metric, value=over_last.value, n=items, interval=interval, unit=curve.unit)
    intervals = {layer: gain(layer).interval(others) for layer in curve.scores if layer != best}
    as_good = tuple(layer for layer, ends in intervals.items() if ends is None or ends[0] <= 0)
    return Recommendation(curve=curve, best=best, last=last, gain=metric, as_good=as_good)


def format_difference(low: float, high: float | None, unit: str) -> str:
    """Return a difference of scores, or an interval's ends, with the unit; shares in points."""
    ends = [low] if high is None else [low, high]
    numbers = [f"{100 * end:.1f}" if unit == "%" else f"{end:.3f}" for end in ends]
    return f"{' to '.join(numbers)} {'points' if unit == '%' else unit}".strip().replace("-", "−")


COLOURS = "colours"
"""Name of the baseline that tracks by colour alone."""
FORMAT = 5
"""Version of cached scores, including those of `experiments/layers`; other versions are ignored."""

Tasks = Mapping[str, Evaluator[LayerSource]]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Curves of a model."""

    model: str
    about: dict[str, str]
    curves: tuple[LayerCurve, ...]
    failures: tuple[InputError, ...]
    """Images and masks that could not be used, without duplicates; no score includes them."""
    images: int
    """Number of images, including those that could not be used."""
    tested: Mapping[str, tuple[EncoderInputs, Mapping[int, CachedTokens]]]
    """The test images of each task, of the last video for tracking, and their tokens by layer."""


def run_sweep(
    encoder: LayerFeatures,
    tasks: Tasks,
    cache: FeatureCache,
    layers: Sequence[int] | None = None,
    track: Track = untracked,
) -> Sweep:
    """Encode the images that the tasks need, then evaluate each task layer by layer.

    `layers`: see `evaluated_layers`. Raises ConfigError for a layer that does not exist, DataError if data lack what a
    task needs, ModelError if a feature or a score is not finite.
    """
    numbers = evaluated_layers(encoder, layers)
    curves: list[LayerCurve] = []
    failures: dict[str, InputError] = {}
    keys: set[str] = set()
    tested: dict[str, tuple[EncoderInputs, Mapping[int, CachedTokens]]] = {}
    for name, task in tasks.items():
        swept = SweptLayers(encoder, name, cache, numbers)
        scores: dict[int, dict[str, LayerScore]] = {}
        for layer in track(numbers, f"{name}, {encoder.name}", len(numbers)):
            found = map(LayerScore.of, task.run(swept.at(layer), track))  # with the digits of a report, as follows
            scores[layer] = {score.name: LayerScore.from_dict(score.to_dict()) for score in found}
        for images, features in swept.encoded:
            keys |= {f"{images.digest}/{key}" for key in images.keys}
            failures |= {f"{images.digest}/{failure.source}": failure for failure in features[numbers[0]].failures}
        tested[name] = swept.encoded[-1]
        if other := [layer for layer in numbers if list(scores[layer]) != list(scores[numbers[0]])]:
            raise DataError(f"{name} has other metrics at layer {other[0]} than at others; delete its scores")
        for metric in scores[numbers[0]]:
            by_layer = {layer: by_name[metric] for layer, by_name in scores.items()}
            curve = LayerCurve(model=encoder.name, task=name, metric=metric, depth=encoder.depth, scores=by_layer)
            curves.append(curve)
    return Sweep(
        model=encoder.name,
        about=encoder.about,
        curves=tuple(curves),
        failures=tuple(failures.values()),
        images=len(keys),
        tested=tested,
    )


def evaluated_layers(encoder: LayerFeatures, layers: Sequence[int] | None) -> list[int]:
    """Return the layers to evaluate, 0-based: the given ones or all, and always the last.

    ConfigError for a layer that does not exist.
    """
    return encoder.resolve_layers(None if layers is None else [*layers, -1])


@dataclass(frozen=True, kw_only=True)
class _Evaluated:
    """The scores of a layer."""

    layer: int
    scores: tuple[Score, ...]


class SweptLayers(LayerSource):
    """Layers of a model whose tokens of one task, and the scores, are cached in a directory."""

    def __init__(self, features: LayerFeatures, task: str, cache: FeatureCache, layers: Sequence[int]) -> None:
        super().__init__(features)
        self.task, self.cache, self.layers = task, cache, layers
        self.encoded: list[tuple[EncoderInputs, Mapping[int, CachedTokens]]] = []
        """The task's images with their tokens by layer, encoded for the first one."""

    def at(self, layer: int) -> SweptLayers:
        """Return the same source at another layer."""
        selected = copy.copy(self)
        selected.features = self.features.at(layer)
        return selected

    def score(
        self, inputs: Sequence[EncoderInputs], depends: str, score: ScoreLayer, track: Track = untracked
    ) -> Iterator[Score]:
        """Yield the scores of the selected layer, from the cache if possible."""
        layer = self.features.layer
        if not self.encoded:
            self.encoded += [
                (images, encode_layers(self.features, images, self.layers, self.cache, track)) for images in inputs
            ]
        settings = {
            "format": FORMAT,
            "task": self.task,
            "data": depends,
            "features": [self.cache.key(self.features, images, self.layers) for images in inputs],
        }
        directory = self.cache.directory / "scores" / digest(settings)
        with Store(directory, settings, remedy="delete it to evaluate again") as store:
            done = store.records(_Evaluated, "scores")
            row = next((row for row in done.rows if row.layer == layer), None)
            if row is None:
                row = _Evaluated(layer=layer, scores=tuple(score(features[layer] for _, features in self.encoded)))
                if bad := [item.name for item in row.scores if not np.isfinite(item.value)]:
                    raise ModelError(
                        f"{self.task}: {bad[0]} of layer {layer} of {self.name} is not finite; check the model"
                    )
                done.append(row)
            with store.reading(done.path, (DataError,)):
                found = list(row.scores)
                drawn = {len(draws) for item in found if len(draws := LayerScore.of(item).draws)}  # means need none
                if not found or len(drawn) > 1:
                    raise ValueError(f"layer {layer} has no scores, or not all resamples")
        yield from found


class ColourTowers:
    """The mean colours of another model's patches as its only layer, without weights: see `Layered`."""

    source, depth, width, fixed_size = COLOURS, 1, 3, False
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, other: LayerFeatures) -> None:
        self.patch_size, self.image_size = other.patch_size, other.image_size

    def settings(self) -> dict[str, str]:
        """Return everything its features depend on besides the images."""
        return {"weights": f"{COLOURS} of patches of {self.patch_size}", "dtype": "float32", "device": "cpu"}

    def tokens(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, LayerTokens]:
        """Return the mean colour of each patch minus grey, in (-0.5, 0.5)."""
        h, w = size[0] // self.patch_size, size[1] // self.patch_size
        small = [image.convert("RGB").resize((w, h), Image.Resampling.BOX) for image in images]
        patches = np.stack([np.asarray(image, dtype=np.float32) for image in small]) / 255 - 0.5
        return {0: LayerTokens(np.zeros((len(patches), 0, 3), np.float32), patches)}

    def attention(
        self, images: Sequence[Image.Image], layers: Sequence[int], size: tuple[int, int]
    ) -> dict[int, np.ndarray]:
        raise ModelError(f"{COLOURS} have no attention")
