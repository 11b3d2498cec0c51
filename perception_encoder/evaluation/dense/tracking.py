"""Tracking of objects by similarity of patches (section 3): J, F and J&F as DAVIS defines them.

The masks of the first frame are propagated (dense_prediction/tracking.py) and compared with the true ones; the first
and the last frame are not scored. J is the intersection over the union. F is the harmonic mean of the share of the
mask's boundary pixels within a distance of the true boundary and of the true ones within it of the mask's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from perception_encoder.datasets.masked_videos import VOID, MaskedVideo
from perception_encoder.dense_prediction.tracking import PropagationConfig, frame_size, propagate
from perception_encoder.errors import DataError, InputError
from perception_encoder.evaluation.feature_cache import CachedTokens
from perception_encoder.evaluation.inputs import EncoderInputs, content_digest, settings_digest
from perception_encoder.evaluation.layer_evaluator import LayerSource
from perception_encoder.evaluation.statistics.scores import ItemScores, Label, Score, measure_all
from perception_encoder.inference.layer_features import LayerFeatures
from perception_encoder.progress import Track, untracked

Masks = Sequence[UInt8[np.ndarray, "H W"] | None]
"""A video's true masks: 0 background, 255 not scored, all else objects; None for a frame without one."""
_BOUNDARY_TOLERANCE = 0.008  # of the image's diagonal


class TrackingEvaluator:
    """Tracking of objects in videos by one layer's patches, without training."""

    def __init__(self, videos: Sequence[MaskedVideo], short_side: int) -> None:
        """Take videos; those with an undecodable frame or mask, or without objects to track, are skipped.

        `short_side`: pixels of the frames' short side, rounded to a multiple of the patch; the aspect ratio is kept.
        """
        self.videos, self.short_side = tuple(videos), short_side
        self._inputs: dict[tuple[int, ...], list[EncoderInputs]] = {}

    def run(self, source: LayerSource, track: Track = untracked) -> Iterator[Score]:
        """Yield J&F, J and F of the videos whose frames can all be decoded; each is encoded on its own."""
        features = source.features
        key = features.patch_size, *features.image_size
        if key not in self._inputs:
            self._inputs[key] = [self._frames(video, features) for video in self.videos]
        yield from source.score(self._inputs[key], self._digest, partial(self._score, track=track), track)

    @cached_property
    def _failures(self) -> dict[str, InputError]:
        """Find masks that cannot be decoded or used, by video; each mask is decoded once."""
        failures: dict[str, InputError] = {}
        for video in self.videos:
            try:
                masks = video.read_masks()
                first_objects(video.name, masks)
                scored_frames(video.name, masks)
            except InputError as error:
                failures[video.name] = error
        return failures

    @cached_property
    def _digest(self) -> str:
        masks = [mask for video in self.videos for mask in video.masks if mask is not None]
        names = [(video.name, [mask is not None for mask in video.masks]) for video in self.videos]
        return settings_digest(self.short_side, PropagationConfig(), names, content_digest(masks))

    def _frames(self, video: MaskedVideo, model: LayerFeatures) -> EncoderInputs:
        """Return a video's frames; a video with unusable masks becomes one item that fails."""
        name = video.name
        if (error := self._failures.get(name)) is not None:
            raised = error

            def fail(row: int) -> Sequence[Image.Image]:
                raise raised

            return EncoderInputs(name=name, keys=(name,), open=fail, compute_digest=lambda: f"{name}: {raised}")
        try:
            size = frame_size(video.open(0).size, self.short_side, model.patch_size)
        except InputError:  # it is reported when it is encoded
            size = model.image_size
        return EncoderInputs(
            name=name,
            keys=video.keys,
            open=lambda row: [video.open(row)],
            compute_digest=lambda: content_digest(video.frames),
            image_size=size,
        )

    def _score(self, features: Iterable[CachedTokens], track: Track) -> Iterator[Score]:
        scores: dict[str, np.ndarray] = {}
        failures: list[InputError] = []
        layer = 0
        for video, frames in track(zip(self.videos, features, strict=True), "tracking", len(self.videos)):
            layer = frames.layer
            failures += frames.failures
            if not frames.failures:
                scores[video.name] = score_video(video.name, np.asarray(frames.patches[:]), video.read_masks())
        if not scores:
            reason = f"; the first: {failures[0]}" if failures else ""
            raise DataError(f"tracking: no video can be evaluated{reason}")
        settings = {"layer": str(layer), "short side": str(self.short_side)}
        yield from measure_all(
            tracking_scores(scores), Label(task="tracking", method="label propagation", settings=settings)
        )


def score_video(name: str, features: Float[np.ndarray, "F h w D"], masks: Masks) -> Float[np.ndarray, "2 K"]:
    """Track the objects of the first mask by a layer's features; return J and F of each, ascending by number.

    InputError for a video without objects, or without frames to score between the first and the last.
    """
    objects, first = first_objects(name, masks), masks[0]
    assert first is not None
    labels = np.zeros(first.shape, dtype=np.int64)
    for label, number in enumerate(objects, start=1):
        labels[first == number] = label
    predicted = propagate(torch.from_numpy(np.array(features, dtype=np.float32)), torch.from_numpy(labels))
    return score_masks(name, predicted.numpy(), masks, objects)


def score_masks(
    name: str, predicted: Int[np.ndarray, "F H W"], masks: Masks, objects: Sequence[int]
) -> Float[np.ndarray, "2 K"]:
    """Return J and F of labels 1 to K, which stand for `objects`, against the true masks."""
    frames = scored_frames(name, masks)
    scores = np.zeros((2, len(frames), len(objects)))
    for row, index in enumerate(frames):
        truth = masks[index]
        assert truth is not None
        counts = truth != VOID
        for column, number in enumerate(objects):
            pair = (predicted[index] == column + 1) & counts, truth == number
            scores[:, row, column] = region_similarity(*pair), boundary_accuracy(*pair)
    return scores.mean(axis=1)


def first_objects(name: str, masks: Masks) -> list[int]:
    """Return the numbers of the objects in the first mask, ascending; InputError if there are none."""
    objects = [] if masks[0] is None else [int(n) for n in np.unique(masks[0]) if n not in (0, VOID)]
    if not objects:
        raise InputError(name, "the mask of the first frame has no object to track")
    return objects


def scored_frames(name: str, masks: Masks) -> list[int]:
    """Return the frames to score: those with a mask but the first and last (of two, the second); InputError if none."""
    last = len(masks) - 1 if len(masks) > 2 else 2
    frames = [index for index in range(1, last) if masks[index] is not None]
    if not frames:
        raise InputError(name, "no frame after the first has a scored mask")
    return frames


def tracking_scores(scores: Mapping[str, Float[np.ndarray, "2 K"]]) -> tuple[ItemScores, ...]:
    """Score `J&F`, `J` and `F` over videos, with one entry per object and videos as items."""
    owners = np.repeat(np.arange(len(scores)), [video.shape[1] for video in scores.values()])
    region, boundary = np.concatenate(list(scores.values()), axis=1)
    metrics = {"J&F": (region + boundary) / 2, "J": region, "F": boundary}
    return tuple(ItemScores.of(name, values, list(scores), owners=owners) for name, values in metrics.items())


def region_similarity(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Return J, in [0, 1]; 1 if both are empty."""
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def boundary_accuracy(mask: Bool[np.ndarray, "H W"], truth: Bool[np.ndarray, "H W"]) -> float:
    """Return F, in [0, 1]; 1 if neither mask has a boundary, 0 if only one has."""
    from scipy.spatial import KDTree

    predicted, true = np.argwhere(boundary(mask)), np.argwhere(boundary(truth))
    if not len(predicted) or not len(true):
        return float(len(predicted) == len(true))
    radius = tolerance_pixels(mask.shape[0], mask.shape[1])
    distances = KDTree(true).query(predicted)[0], KDTree(predicted).query(true)[0]
    precision, recall = (float((distance <= radius).mean()) for distance in distances)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tolerance_pixels(height: int, width: int) -> int:
    """Return the maximum distance of matching boundaries, in pixels."""
    return math.ceil(_BOUNDARY_TOLERANCE * math.hypot(height, width))


def boundary(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Return the pixels that differ from their right, lower or lower-right neighbour; image edges do not count."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, :-1] ^ mask[:, 1:]
    edge[:-1] |= mask[:-1] ^ mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] ^ mask[1:, 1:]
    return edge
